//! A door for the fuzzers to the decoding of request bodies. No part of the API.

use bytes::Bytes;
use uuid::Uuid;

use super::record_decode::{self, RawFields, TopicField};
use super::requests::events::event;

/// What a body is taken for.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    Document,
    DocumentWithTopics,
    Lines,
    RawLines,
    Events,
    Edited,
}

/// Decodes a body; answers with how many records it holds, 0 when it is refused.
pub fn decode_body(kind: Body, body: &[u8]) -> usize {
    let body = Bytes::copy_from_slice(body);
    let decoded = match kind {
        Body::Document => record_decode::document(&body, TopicField::Refused),
        Body::DocumentWithTopics => record_decode::document(&body, TopicField::Required),
        Body::Lines => record_decode::lines(&body, TopicField::Refused),
        Body::RawLines => record_decode::raw_lines(&body, RawFields { key: Some("user_id"), id: Some("event.id") }),
        Body::Edited => return usize::from(record_decode::edited(&body).is_ok()),
        Body::Events => {
            return match event::decode(&body, Uuid::nil) {
                Ok(event::Events::One(_)) => 1,
                Ok(event::Events::Many(events)) => events.len(),
                Err(_) => 0,
            };
        }
    };
    decoded.map_or(0, |records| records.len())
}
