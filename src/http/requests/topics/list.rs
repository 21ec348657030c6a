//! `GET /v1/topics`: topics by name, a page at a time.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::broker::TopicInfo;
use crate::http::error::Problem;
use crate::http::extract::{Query, ok};
use crate::http::state::App;

/// Topics of one page when the request does not say, and at most.
const PAGE_DEFAULT: usize = 1_000;
const PAGE_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    prefix: Option<String>,
    /// Name of the last topic of the page before.
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct TopicList {
    topics: Vec<TopicInfo>,
    /// Send it as `after` for the next page; `null` at the end.
    next: Option<String>,
}

pub async fn handle(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Response, Problem> {
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
    let prefix = query.prefix.as_deref().unwrap_or_default();
    let mut topics = app.broker.topics();
    topics.retain(|topic| topic.name.starts_with(prefix) && query.after.as_ref().is_none_or(|after| topic.name > *after));
    let more = topics.len() > limit;
    topics.truncate(limit);
    let next = topics.last().filter(|_| more).map(|topic| topic.name.clone());
    Ok(ok(&TopicList { topics, next }))
}
