//! `PUT /v1/stream-groups/{group}/offsets`: commits offsets; partitions that are not named keep theirs.

use axum::extract::State;
use axum::response::Response;

use super::offsets::Offsets;
use crate::http::error::Problem;
use crate::http::extract::{Json, Path, ok};
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Path(group): Path<String>, Json(body): Json<Offsets>) -> Result<Response, Problem> {
    app.broker.commit_offsets(&group, body.offsets).await?;
    Ok(ok(&Offsets { offsets: app.broker.committed_offsets(&group) }))
}
