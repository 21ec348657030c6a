//! What an event is: which fields are checked, and how it is stored. Pure; knows no request and no broker.
//!
//! `event_type` is required text. `event_id` (a UUID), `user_id` (text), `timestamp` (ISO 8601, zone optional) and
//! `properties` (an object) are checked when they are there; `null` counts as absent, except for `event_id`. Everything
//! else is kept unseen. An event is stored byte for byte as received; only a missing `event_id` is put in front.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::broker::NewRecord;
use crate::http::error::Problem;
use crate::http::iso_time;
use crate::http::json::{self, AtMost};

/// Most events of one request.
pub const EVENTS_MAX: usize = 10_000;

/// A checked event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: Uuid,
    /// The event's user.
    key: Option<Bytes>,
    value: Bytes,
}

/// One event, or several sent together.
#[derive(Debug)]
pub enum Events {
    One(Event),
    Many(Vec<Event>),
}

impl Event {
    /// Keyed by user, so that a user's events keep their order; repeated by id, so that they are stored once.
    pub fn into_record(self) -> NewRecord {
        let id = self.id.hyphenated().to_string();
        NewRecord { key: self.key, value: Some(self.value), idempotency_key: Some(Bytes::from(id)), ..NewRecord::default() }
    }
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "json::present")]
    event_id: Option<&'a RawValue>,
    #[serde(borrow)]
    event_type: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
}

/// Checks a body: an event or an array of them. `make_id` gives ids to events without one.
pub fn decode(body: &Bytes, make_id: impl Fn() -> Uuid) -> Result<Events, Problem> {
    let text = json::text(body)?;
    if !text.trim_start().starts_with('[') {
        return check(text, body, &make_id).map(Events::One);
    }
    let AtMost(events) = json::read::<AtMost<&RawValue, EVENTS_MAX>>(text)?;
    let checked = events.into_iter().enumerate().map(|(index, event)| check(event.get(), body, &make_id).map_err(|p| p.at_record(index)));
    checked.collect::<Result<_, _>>().map(Events::Many)
}

fn check(text: &str, body: &Bytes, make_id: &impl Fn() -> Uuid) -> Result<Event, Problem> {
    let fields: Fields = json::read(text)?;
    let Some(brace) = text.find('{').filter(|at| text.as_bytes()[..*at].trim_ascii().is_empty()) else {
        return Err(Problem::field("event", "must be a JSON object"));
    };
    let required = fields.event_type.ok_or_else(|| Problem::field("event_type", "is missing"))?;
    if json::string(required).is_none_or(|event_type| event_type.is_empty()) {
        return Err(Problem::field("event_type", "must be a string that is not empty"));
    }
    let user = fields.user_id.map(|raw| json::string(raw).ok_or_else(|| Problem::field("user_id", "must be a string"))).transpose()?;
    if fields.timestamp.is_some_and(|raw| json::string(raw).and_then(|text| iso_time::millis(&text)).is_none()) {
        return Err(Problem::field("timestamp", "must be an ISO 8601 time like 2024-01-15T10:30:00 or 2024-01-15T10:30:00Z"));
    }
    if fields.properties.is_some_and(|raw| !raw.get().starts_with('{')) {
        return Err(Problem::field("properties", "must be an object"));
    }
    let key = user.filter(|user| !user.is_empty()).map(|user| Bytes::copy_from_slice(user.as_bytes()));
    let (id, value) = match fields.event_id {
        Some(raw) => (read_id(raw)?, body.slice_ref(text.as_bytes())),
        None => {
            let id = make_id();
            // An event has at least its type: what follows the brace is never the end of the object.
            let value = format!("{}\"event_id\":\"{}\",{}", &text[..=brace], id.hyphenated(), &text[brace + 1..]);
            (id, Bytes::from(value))
        }
    };
    Ok(Event { id, key, value })
}

fn read_id(raw: &RawValue) -> Result<Uuid, Problem> {
    let wrong = || Problem::field("event_id", "must be a UUID; leave it out to have one made");
    Uuid::parse_str(&json::string(raw).ok_or_else(wrong)?).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::error::Code;

    const MADE: Uuid = Uuid::from_u128(7);

    fn one(body: &'static str) -> Result<Event, Problem> {
        match decode(&Bytes::from_static(body.as_bytes()), || MADE)? {
            Events::One(event) => Ok(event),
            Events::Many(_) => panic!("one event was sent"),
        }
    }

    #[test]
    fn an_event_with_an_id_is_stored_as_received() {
        let body = concat!(
            " {\"event_type\": \"purchase\",\"event_id\":\"380DAAC0-5b75-2273-5731-4ed170a91a4b\", ",
            "\"user_id\":\"user_1\", \"timestamp\":\"2024-01-15T10:30:00.123\", \"properties\":{\"a\":1.50}, \"other\":[null]}\n"
        );
        let record = one(body).unwrap().into_record();
        assert_eq!(record.value.as_deref(), Some(body.as_bytes()));
        assert_eq!(record.key.as_deref(), Some(&b"user_1"[..]));
        assert_eq!(record.idempotency_key.as_deref(), Some(&b"380daac0-5b75-2273-5731-4ed170a91a4b"[..]));
        assert_eq!(record.timestamp_ms, None);
    }

    #[test]
    fn a_missing_id_is_made_and_put_first() {
        let event = one("{ \"event_type\":\"x\",\"user_id\":null}").unwrap();
        assert_eq!(event.id, MADE);
        assert_eq!(event.value, "{\"event_id\":\"00000000-0000-0000-0000-000000000007\", \"event_type\":\"x\",\"user_id\":null}");
        assert_eq!(event.key, None);
    }

    #[test]
    fn a_malformed_field_is_named() {
        for (body, field) in [
            (r"{}", "event_type"),
            (r#"{"event_type":null}"#, "event_type"),
            (r#"{"event_type":""}"#, "event_type"),
            (r#"{"event_type":1}"#, "event_type"),
            (r#"{"event_type":"x","event_id":"7"}"#, "event_id"),
            (r#"{"event_type":"x","event_id":null}"#, "event_id"),
            (r#"{"event_type":"x","user_id":5}"#, "user_id"),
            (r#"{"event_type":"x","timestamp":"soon"}"#, "timestamp"),
            (r#"{"event_type":"x","timestamp":1705314600}"#, "timestamp"),
            (r#"{"event_type":"x","properties":[]}"#, "properties"),
            (r#"{"event_type":"x","properties":"{}"}"#, "properties"),
        ] {
            let problem = one(body).unwrap_err();
            assert_eq!((problem.code(), problem.field_name()), (Code::InvalidBody, Some(field)), "{body}");
        }
    }

    #[test]
    fn what_is_not_an_event_is_refused() {
        for body in ["", "{", "{\"event_type\":\"x\"} trailing", "{\"event_type\":\"x\",}"] {
            assert_eq!(one(body).unwrap_err().code(), Code::MalformedJson, "{body}");
        }
        for body in ["1", "\"text\"", "{\"event_type\":\"x\",\"event_type\":\"y\"}"] {
            assert_eq!(one(body).unwrap_err().code(), Code::InvalidBody, "{body}");
        }
        let nested = Bytes::from_static(br#"[["x"]]"#);
        assert_eq!(decode(&nested, || MADE).unwrap_err().code(), Code::InvalidBody);
        let deep = format!("{{\"event_type\":\"x\",\"properties\":{}1{}}}", "{\"a\":".repeat(1000), "}".repeat(1000));
        assert_eq!(decode(&Bytes::from(deep), || MADE).unwrap_err().code(), Code::MalformedJson);
    }

    #[test]
    fn an_array_is_many_events_and_names_the_wrong_one() {
        let good = Bytes::from_static(br#"[{"event_type":"a"}, {"event_type":"b"}]"#);
        assert!(matches!(decode(&good, || MADE).unwrap(), Events::Many(events) if events.len() == 2));
        let bad = Bytes::from_static(br#"[{"event_type":"a"}, {"event_typ":"b"}]"#);
        let problem = decode(&bad, || MADE).unwrap_err();
        assert!(problem.detail().starts_with("record 1: `event_type`"), "{}", problem.detail());
    }
}
