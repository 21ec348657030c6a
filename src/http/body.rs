//! Request bodies: how large, how slow and of which type they may be. Knows nothing of what is in them.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::budget::{Budget, Share};
use super::config::HttpConfig;
use super::error::{Code, Problem};

/// What is read and thrown away of a body that is too large, so that its sender gets to see the answer.
const DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// A body that comes in pieces starts with room for this much, whatever length its header promises.
const PIECES_BYTES_START: usize = 64 * 1024;

/// What a body says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    Json,
    /// One JSON value per line.
    NdJson,
}

/// The type of the body; JSON when it does not say.
pub fn content_type(headers: &HeaderMap) -> Result<ContentType, Problem> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(ContentType::Json) };
    let text = given.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(ContentType::Json);
    }
    let lower = essence.to_ascii_lowercase();
    match lower.as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(ContentType::NdJson),
        json if json.starts_with("application/") && json.ends_with("+json") => Ok(ContentType::Json),
        _ => Err(Problem::new(
            Code::UnsupportedType,
            format!(
                "the body is `{text}`; send `content-type: application/json` (curl: -H 'content-type: application/json'), or application/x-ndjson where a path takes lines"
            ),
        )),
    }
}

/// Refuses a body that is not JSON.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    match content_type(headers)? {
        ContentType::Json => Ok(()),
        ContentType::NdJson => {
            Err(Problem::new(Code::UnsupportedType, "this path takes one JSON value, not lines; send `content-type: application/json`"))
        }
    }
}

/// Reads the whole body within the limits of size, memory and time. A body that announces too much is not read.
pub async fn read(config: &HttpConfig, budget: &Budget, request: Request) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let waits_for_go_ahead = parts.headers.contains_key(header::EXPECT);
    let max = config.body_bytes_max;
    if announced.is_some_and(|bytes| bytes > max as u64) {
        if !waits_for_go_ahead {
            drain(body).await;
        }
        return Err(too_large(max));
    }
    // A body that does not say how long it will be takes its share as it grows.
    let length = announced.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(max));
    let mut share = match budget.share(length).await {
        Ok(share) => share,
        Err(refused) => {
            if !waits_for_go_ahead {
                drain(body).await;
            }
            return Err(refused);
        }
    };
    let Ok(result) = tokio::time::timeout(config.body_timeout, collect(body, max, budget, &mut share)).await else {
        let detail = format!("the body did not arrive within {} s; nothing was stored", config.body_timeout.as_secs());
        return Err(Problem::new(Code::BodyTimeout, detail));
    };
    result.map(|bytes| share.keep(bytes))
}

async fn collect(mut body: Body, max: usize, budget: &Budget, share: &mut Share) -> Result<Bytes, Problem> {
    let Some(first) = next(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > max {
        drain(body).await;
        return Err(too_large(max));
    }
    // Nearly every body is one piece: it is handed on without copying.
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + PIECES_BYTES_START);
    whole.extend_from_slice(&first);
    while let Some(piece) = next(&mut body).await? {
        if whole.len() + piece.len() > max {
            drain(body).await;
            return Err(too_large(max));
        }
        if whole.len() + piece.len() > whole.capacity() {
            let grown = (whole.capacity() * 2).max(whole.len() + piece.len()).min(max);
            if let Err(refused) = budget.grow(share, grown).await {
                drain(body).await;
                return Err(refused);
            }
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// The next piece of data, `None` at the end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => return Err(Problem::new(Code::InvalidRequest, format!("the body broke off: {error}"))),
        }
    }
}

/// Reads on without keeping anything: closing at once would reset the connection and lose the answer on its way.
async fn drain(mut body: Body) {
    let reading = async {
        let mut dropped = 0;
        while let Ok(Some(piece)) = next(&mut body).await {
            dropped += piece.len();
            if dropped > DRAIN_BYTES_MAX {
                return;
            }
        }
    };
    // Whether it ended or not, the answer is the same.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
}

fn too_large(max: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("a body may have {max} bytes; nothing was stored; send smaller batches"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn config(max: usize) -> HttpConfig {
        HttpConfig { body_bytes_max: max, body_timeout: Duration::from_millis(100), ..HttpConfig::default() }
    }

    fn budget() -> Budget {
        Budget::new(1 << 20, Duration::from_millis(10))
    }

    #[tokio::test]
    async fn a_body_at_the_limit_passes_and_one_byte_more_does_not() {
        assert_eq!(read(&config(4), &budget(), Request::new(Body::from("1234"))).await.unwrap(), "1234");
        assert_eq!(read(&config(4), &budget(), Request::new(Body::from("12345"))).await.unwrap_err().code(), Code::BodyTooLarge);
    }

    #[tokio::test]
    async fn an_announced_length_above_the_limit_is_refused_unread() {
        let request = Request::builder().header("content-length", "10000000").header("expect", "100-continue");
        let error = read(&config(1000), &budget(), request.body(Body::from("tiny")).unwrap()).await.unwrap_err();
        assert_eq!(error.code(), Code::BodyTooLarge);
    }

    #[test]
    fn types_are_known_with_and_without_parameters() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
            content_type(&headers)
        };
        assert_eq!(of("application/json; charset=utf-8").unwrap(), ContentType::Json);
        assert_eq!(of("application/cloudevents+json").unwrap(), ContentType::Json);
        assert_eq!(of("application/X-NDJSON").unwrap(), ContentType::NdJson);
        assert_eq!(of("text/plain").unwrap_err().code(), Code::UnsupportedType);
        assert_eq!(content_type(&HeaderMap::new()).unwrap(), ContentType::Json);
    }
}
