//! `GET /v1/topics/{topic}/dead-letters`: unresolved dead letters in the order they died, a page at a time.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::view::DeadLetterJson;
use crate::broker::DeadLetterFilter;
use crate::http::error::{Code, Problem};
use crate::http::extract::{Path, Query, ok};
use crate::http::place::record_id;
use crate::http::state::App;

/// Dead letters of one page when the request does not say, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListQuery {
    group: Option<String>,
    key: Option<String>,
    /// `name:value`.
    header: Option<String>,
    reason: Option<String>,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
    /// `partition-offset` of the last dead letter of the page before.
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct DeadLetterList<'a> {
    dead_letters: Vec<DeadLetterJson<'a>>,
    /// Send it as `after` for the next page; `null` at the end.
    next: Option<String>,
}

pub async fn handle(State(app): State<App>, Path(topic): Path<String>, Query(query): Query<ListQuery>) -> Result<Response, Problem> {
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let after = query.after.as_deref().map(record_id).transpose()?;
    let mut letters = app.broker.dead_letters(&topic, &filter(query)?, after, limit + 1).await?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| more).map(|letter| format!("{}-{}", letter.partition, letter.offset));
    Ok(ok(&DeadLetterList { dead_letters: letters.iter().map(DeadLetterJson::from).collect(), next }))
}

fn filter(query: ListQuery) -> Result<DeadLetterFilter, Problem> {
    let header = query.header.map(|pair| {
        let split = pair.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
        split.ok_or_else(|| Problem::new(Code::InvalidQuery, format!("`header={pair}` is not `name:value`")))
    });
    Ok(DeadLetterFilter {
        group: query.group,
        key: query.key,
        header: header.transpose()?,
        reason: query.reason,
        from_ms: query.from_ms,
        to_ms: query.to_ms,
        at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_name_and_value() {
        let of = |header: &str| filter(ListQuery { header: Some(header.to_owned()), ..ListQuery::default() });
        assert_eq!(of("a:b:c").unwrap().header, Some(("a".to_owned(), "b:c".to_owned())));
        assert_eq!(of("a").unwrap_err().code(), Code::InvalidQuery);
    }
}
