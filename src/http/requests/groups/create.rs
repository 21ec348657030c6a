//! `PUT /v1/topics/{topic}/groups/{group}`: creates a queue group; again with the same settings is no failure.

use axum::extract::State;
use axum::response::Response;

use crate::broker::GroupSettings;
use crate::http::error::Problem;
use crate::http::extract::{Json, Path, ok};
use crate::http::state::App;

pub async fn handle(
    State(app): State<App>,
    Path((topic, group)): Path<(String, String)>,
    Json(settings): Json<GroupSettings>,
) -> Result<Response, Problem> {
    Ok(ok(&app.broker.create_group(&topic, &group, settings).await?))
}
