//! `DELETE /v1/topics/{topic}`: removes a topic with its records and groups.

use axum::extract::State;
use axum::http::StatusCode;

use crate::http::error::Problem;
use crate::http::extract::Path;
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Path(topic): Path<String>) -> Result<StatusCode, Problem> {
    app.broker.delete_topic(&topic).await?;
    Ok(StatusCode::NO_CONTENT)
}
