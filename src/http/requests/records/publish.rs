//! `POST /v1/topics/{topic}/records`: publishes records to one topic, all of them or none.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;

use super::published::published;
use crate::broker::NewRecord;
use crate::http::body::{self, ContentType};
use crate::http::correlation::Correlation;
use crate::http::error::{Code, Problem};
use crate::http::extract::{Path, query};
use crate::http::record_decode::{self, RawFields, TopicField};
use crate::http::state::App;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishQuery {
    /// Lines are values, not records.
    raw: bool,
    key_field: Option<String>,
    id_field: Option<String>,
    /// Publishes one record only if it gets this offset.
    expected_offset: Option<i64>,
}

pub async fn handle(
    State(app): State<App>,
    Path(topic): Path<String>,
    Extension(correlation): Extension<Correlation>,
    request: Request,
) -> Result<Response, Problem> {
    let query: PublishQuery = if request.uri().query().is_none() { PublishQuery::default() } else { query(request.uri())? };
    let content_type = body::content_type(request.headers())?;
    let body = body::read(&app.config, &app.budget, request).await?;
    let decoded = match content_type {
        ContentType::NdJson if query.raw => {
            record_decode::raw_lines(&body, RawFields { key: query.key_field.as_deref(), id: query.id_field.as_deref() })?
        }
        _ if query.raw || query.key_field.is_some() || query.id_field.is_some() => return Err(raw_needs_lines()),
        ContentType::NdJson => record_decode::lines(&body, TopicField::Refused)?,
        ContentType::Json => record_decode::document(&body, TopicField::Refused)?,
    };
    let mut records: Vec<NewRecord> = decoded.into_iter().map(|(_, record)| record).collect();
    correlation.stamp(&mut records);
    match query.expected_offset {
        None => Ok(published(&app.broker.produce(&topic, records).await?)),
        Some(expected) => Ok(published(&[app.broker.produce_if(&topic, only_one(records)?, expected).await?])),
    }
}

fn only_one(records: Vec<NewRecord>) -> Result<NewRecord, Problem> {
    match <[NewRecord; 1]>::try_from(records) {
        Ok([record]) => Ok(record),
        Err(records) => {
            let detail = format!("`expected_offset` goes with exactly one record, not {}; nothing was stored", records.len());
            Err(Problem::new(Code::InvalidRequest, detail))
        }
    }
}

fn raw_needs_lines() -> Problem {
    let detail = "`key_field` and `id_field` go with `raw=true`, and that with lines; send `content-type: application/x-ndjson`";
    Problem::new(Code::InvalidQuery, detail)
}
