//! `GET /v1/topics/{topic}/dead-letters/{partition}/{offset}`: one dead letter, by its place in the dead-letter topic.

use axum::extract::State;
use axum::response::Response;

use super::view::DeadLetterJson;
use crate::broker::{BrokerError, DeadLetterFilter};
use crate::http::error::Problem;
use crate::http::extract::{Path, ok};
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Path((topic, partition, offset)): Path<(String, u32, i64)>) -> Result<Response, Problem> {
    let filter = DeadLetterFilter { at: Some((partition, offset)), ..DeadLetterFilter::default() };
    let letters = app.broker.dead_letters(&topic, &filter, None, 1).await?;
    match letters.first() {
        Some(letter) => Ok(ok(&DeadLetterJson::from(letter))),
        None => Err(BrokerError::DeadLetterNotFound { topic, partition, offset }.into()),
    }
}
