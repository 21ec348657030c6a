//! `POST /v1/batch`: publishes records to several topics and partitions, all of them or none.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;

use super::published::published;
use crate::http::body::{self, ContentType};
use crate::http::correlation::Correlation;
use crate::http::error::Problem;
use crate::http::record_decode::{self, TopicField};
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Extension(correlation): Extension<Correlation>, request: Request) -> Result<Response, Problem> {
    let content_type = body::content_type(request.headers())?;
    let body = body::read(&app.config, &app.budget, request).await?;
    let mut records = match content_type {
        ContentType::NdJson => record_decode::lines(&body, TopicField::Required)?,
        ContentType::Json => record_decode::document(&body, TopicField::Required)?,
    };
    correlation.stamp(records.iter_mut().map(|(_, record)| record));
    Ok(published(&app.broker.produce_atomic(records).await?))
}
