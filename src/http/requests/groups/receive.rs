//! `POST /v1/topics/{topic}/groups/{group}/receive`: leases records, waiting for the first if asked to.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::broker::{Delivery, ReceiveRequest};
use crate::http::error::Problem;
use crate::http::extract::{Json, Path, ok};
use crate::http::negotiate::{self, NDJSON, Shape};
use crate::http::record_json::{DeliveryJson, write_line};
use crate::http::state::App;

/// Records of one answer when the request does not say, and at most.
const RECORDS_DEFAULT: usize = 10;
const RECORDS_MAX: usize = 1_000;
/// The member of requests that do not name theirs.
const MEMBER_DEFAULT: &str = "http";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveBody {
    member: Option<String>,
    max: Option<usize>,
    wait_ms: Option<u64>,
    visibility_ms: Option<u64>,
}

#[derive(Serialize)]
struct Deliveries<'a> {
    deliveries: Vec<DeliveryJson<'a>>,
}

pub async fn handle(
    State(app): State<App>,
    Path((topic, group)): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<ReceiveBody>,
) -> Result<Response, Problem> {
    let shape = negotiate::shape(&headers)?;
    let request = ReceiveRequest {
        topic,
        group,
        member: body.member.unwrap_or_else(|| MEMBER_DEFAULT.to_owned()),
        records_max: body.max.unwrap_or(RECORDS_DEFAULT).min(RECORDS_MAX),
        wait: app.wait(body.wait_ms),
        visibility_ms: body.visibility_ms,
    };
    let deliveries = app.unless_stopped(app.broker.receive(request)).await.transpose()?.unwrap_or_default();
    match shape {
        Shape::Document => Ok(ok(&Deliveries { deliveries: deliveries.iter().map(DeliveryJson).collect() })),
        Shape::Lines => lines(&deliveries),
    }
}

fn lines(deliveries: &[Delivery]) -> Result<Response, Problem> {
    let mut body = Vec::new();
    for delivery in deliveries {
        write_line(&mut body, &DeliveryJson(delivery)).map_err(|error| crate::http::json::problem(&error))?;
    }
    Ok(([(header::CONTENT_TYPE, NDJSON)], body).into_response())
}
