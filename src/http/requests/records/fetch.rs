//! `GET /v1/topics/{topic}/partitions/{partition}/records`: reads records from a place on, waiting for the first if asked to.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::broker::{FetchRequest, Fetched, SeekTo};
use crate::http::error::Problem;
use crate::http::extract::{Path, Query, ok};
use crate::http::negotiate::{self, NDJSON, Shape};
use crate::http::place::PlaceQuery;
use crate::http::record_json::{RecordJson, write_line};
use crate::http::state::App;

/// Records of one answer when the request does not say, and at most; the same for their bytes.
const RECORDS_DEFAULT: usize = 100;
const RECORDS_MAX: usize = 10_000;
const BYTES_DEFAULT: usize = 1024 * 1024;
const BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchQuery {
    offset: Option<i64>,
    from: Option<String>,
    time: Option<String>,
    max_records: Option<usize>,
    max_bytes: Option<usize>,
    wait_ms: Option<u64>,
}

#[derive(Serialize)]
struct FetchedJson<'a> {
    records: Vec<RecordJson<'a>>,
    next_offset: i64,
    log_start: i64,
    high_watermark: i64,
}

pub async fn handle(
    State(app): State<App>,
    Path((topic, partition)): Path<(String, u32)>,
    Query(query): Query<FetchQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shape = negotiate::shape(&headers)?;
    let place = PlaceQuery { offset: query.offset, from: query.from, time: query.time }.place()?;
    let offset = match place.unwrap_or(SeekTo::Earliest) {
        SeekTo::Offset(offset) => offset,
        place => app.broker.resolve(&topic, partition, place).await?,
    };
    let request = |wait| FetchRequest {
        topic: topic.clone(),
        partition,
        offset,
        records_max: query.max_records.unwrap_or(RECORDS_DEFAULT).min(RECORDS_MAX),
        bytes_max: query.max_bytes.unwrap_or(BYTES_DEFAULT).min(BYTES_MAX),
        wait,
    };
    let waiting = app.broker.fetch(request(app.wait(query.wait_ms)));
    let fetched = match app.unless_stopped(waiting).await {
        Some(fetched) => fetched?,
        None => app.broker.fetch(request(std::time::Duration::ZERO)).await?,
    };
    match shape {
        Shape::Document => Ok(document(&fetched)),
        Shape::Lines => lines(&fetched),
    }
}

fn document(fetched: &Fetched) -> Response {
    ok(&FetchedJson {
        records: fetched.records.iter().map(RecordJson).collect(),
        next_offset: fetched.next_offset,
        log_start: fetched.log_start,
        high_watermark: fetched.high_watermark,
    })
}

/// Lines have no place for the numbers around the records: they are headers of the answer.
fn lines(fetched: &Fetched) -> Result<Response, Problem> {
    let mut body = Vec::new();
    for record in &fetched.records {
        write_line(&mut body, &RecordJson(record)).map_err(|error| crate::http::json::problem(&error))?;
    }
    let headers = [
        ("onelog-next-offset", fetched.next_offset.to_string()),
        ("onelog-log-start", fetched.log_start.to_string()),
        ("onelog-high-watermark", fetched.high_watermark.to_string()),
    ];
    Ok(([(header::CONTENT_TYPE, NDJSON)], headers, body).into_response())
}
