//! `DELETE /v1/stream-groups/{group}`: forgets a stream group's committed offsets.

use axum::extract::State;
use axum::http::StatusCode;

use crate::http::error::Problem;
use crate::http::extract::Path;
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Path(group): Path<String>) -> Result<StatusCode, Problem> {
    app.broker.delete_stream_group(&group).await?;
    Ok(StatusCode::NO_CONTENT)
}
