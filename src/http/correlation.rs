//! The thread that ties a request to its records: `x-correlation-id` and `traceparent`, taken or made, echoed, and kept as
//! record headers so that deliveries and dead letters show them too.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use crate::broker::{Header, NewRecord};

/// Longest correlation id taken from a request, bytes; a longer one is replaced.
const CORRELATION_ID_BYTES_MAX: usize = 128;

static REQUEST_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");
static TRACE_HEADER: HeaderName = HeaderName::from_static("traceparent");

static RECORD_HEADER: LazyLock<Arc<str>> = LazyLock::new(|| "correlation-id".into());
static RECORD_TRACE_HEADER: LazyLock<Arc<str>> = LazyLock::new(|| "traceparent".into());

/// Ids made here are a random number per process and a count: unique, and cheaper than a random number each.
static PROCESS: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().simple().to_string()[..16].to_owned());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What one request and its records are known by.
#[derive(Debug, Clone)]
pub struct Correlation {
    id: HeaderValue,
    trace: Option<HeaderValue>,
}

impl Correlation {
    pub fn of(headers: &HeaderMap) -> Self {
        let id = headers.get(&REQUEST_HEADER).filter(|id| is_correlation_id(id.as_bytes())).cloned().unwrap_or_else(made);
        let trace = headers.get(&TRACE_HEADER).filter(|trace| is_traceparent(trace.as_bytes())).cloned();
        Self { id, trace }
    }

    /// For the log.
    pub fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// Puts the ids on the answer.
    pub fn echo(self, headers: &mut HeaderMap) {
        headers.insert(&REQUEST_HEADER, self.id);
        if let Some(trace) = self.trace {
            headers.insert(&TRACE_HEADER, trace);
        }
    }

    /// Puts the ids on records that do not bring their own.
    pub fn stamp<'a>(&self, records: impl IntoIterator<Item = &'a mut NewRecord>) {
        let id = Bytes::copy_from_slice(self.id.as_bytes());
        let trace = self.trace.as_ref().map(|trace| Bytes::copy_from_slice(trace.as_bytes()));
        for record in records {
            add(&mut record.headers, &RECORD_HEADER, &id);
            if let Some(trace) = &trace {
                add(&mut record.headers, &RECORD_TRACE_HEADER, trace);
            }
        }
    }
}

fn add(headers: &mut Vec<Header>, name: &Arc<str>, value: &Bytes) {
    if !headers.iter().any(|header| header.name == *name) {
        headers.push(Header { name: Arc::clone(name), value: Some(value.clone()) });
    }
}

fn made() -> HeaderValue {
    let id = format!("{}-{:x}", *PROCESS, NEXT.fetch_add(1, Relaxed));
    HeaderValue::from_maybe_shared(Bytes::from(id)).unwrap_or_else(|_| HeaderValue::from_static("none"))
}

fn is_correlation_id(id: &[u8]) -> bool {
    (1..=CORRELATION_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// W3C Trace Context: `version-traceid-parentid-flags` in hexadecimal; anything else must be ignored.
fn is_traceparent(trace: &[u8]) -> bool {
    let parts: Vec<&[u8]> = trace.split(|byte| *byte == b'-').collect();
    let hex = |part: &[u8], length: usize| part.len() == length && part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    matches!(parts.as_slice(), [version, id, parent, flags]
        if hex(version, 2) && *version != b"ff" && hex(id, 32) && hex(parent, 16) && hex(flags, 2)
            && id.iter().any(|b| *b != b'0') && parent.iter().any(|b| *b != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_the_request_brings_reaches_the_records() {
        let mut headers = HeaderMap::new();
        headers.insert("x-correlation-id", HeaderValue::from_static("order-7"));
        headers.insert("traceparent", HeaderValue::from_static(TRACE));
        let own = Header { name: "correlation-id".into(), value: Some("mine".into()) };
        let mut records = [NewRecord::default(), NewRecord { headers: vec![own.clone()], ..NewRecord::default() }];
        let correlation = Correlation::of(&headers);
        correlation.stamp(&mut records);
        assert_eq!(records[0].headers[0].value.as_deref(), Some(&b"order-7"[..]));
        assert_eq!(records[0].headers[1].value.as_deref(), Some(TRACE.as_bytes()));
        assert_eq!(records[1].headers[0], own);
        assert_eq!(records[1].headers.len(), 2);
        let mut answer = HeaderMap::new();
        correlation.echo(&mut answer);
        assert_eq!(answer["x-correlation-id"], "order-7");
        assert_eq!(answer["traceparent"], TRACE);
    }

    #[test]
    fn what_is_missing_or_malformed_is_made_anew() {
        let mut headers = HeaderMap::new();
        let made = Correlation::of(&headers);
        assert_ne!(made.id(), Correlation::of(&headers).id());
        headers.insert("x-correlation-id", HeaderValue::from_static("has space"));
        headers.insert("traceparent", HeaderValue::from_static("00-00000000000000000000000000000000-b7ad6b7169203331-01"));
        let replaced = Correlation::of(&headers);
        assert_ne!(replaced.id(), "has space");
        assert!(replaced.trace.is_none());
    }
}
