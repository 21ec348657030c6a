//! `DELETE /v1/topics/{topic}/groups/{group}`: forgets a queue group; records and dead letters stay.

use axum::extract::State;
use axum::http::StatusCode;

use crate::http::error::Problem;
use crate::http::extract::Path;
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Path((topic, group)): Path<(String, String)>) -> Result<StatusCode, Problem> {
    app.broker.delete_group(&topic, &group).await?;
    Ok(StatusCode::NO_CONTENT)
}
