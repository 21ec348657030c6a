//! A record as JSON, the one way onelog shows it: HTTP answers, event streams and the command line all use this file.
//!
//! `{topic, partition, offset, timestamp, key, headers, value}`: timestamp in milliseconds since the epoch, key and value
//! as text or `null`. Bytes that are not UTF-8 appear in base64 under `key_base64` or `value_base64` instead. `headers` is
//! an object of name to text or `null`. Where an object cannot say everything (a name that repeats, a value that is not
//! UTF-8), `headers_list` is there too: all headers in order as `[name, value]`, bytes as `{"base64": ".."}`; `headers`
//! then holds the first of each name that is text. `record_decode` takes both forms back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::broker::{Delivery, Header, Record};

/// Serializes a record in the form this file describes.
#[derive(Debug, Clone, Copy)]
pub struct RecordJson<'a>(pub &'a Record);

impl Serialize for RecordJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        record_fields(self.0, &mut map)?;
        map.end()
    }
}

/// A delivery: the record's fields, then `lease`, `attempt` and `visibility_ms`.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryJson<'a>(pub &'a Delivery);

impl Serialize for DeliveryJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        record_fields(&self.0.record, &mut map)?;
        map.serialize_entry("lease", &self.0.lease)?;
        map.serialize_entry("attempt", &self.0.attempt)?;
        map.serialize_entry("visibility_ms", &self.0.visibility_ms)?;
        map.end()
    }
}

/// One line of NDJSON, its line break included.
///
/// # Errors
/// Never for records and deliveries: their fields have no value JSON cannot hold.
pub fn write_line(out: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}

fn record_fields<M: SerializeMap>(record: &Record, map: &mut M) -> Result<(), M::Error> {
    map.serialize_entry("topic", &record.topic)?;
    map.serialize_entry("partition", &record.partition)?;
    map.serialize_entry("offset", &record.offset)?;
    map.serialize_entry("timestamp", &record.timestamp_ms)?;
    bytes_field(map, ["key", "key_base64"], record.key.as_deref())?;
    map.serialize_entry("headers", &HeadersObject(&record.headers))?;
    if !object_says_all(&record.headers) {
        map.serialize_entry("headers_list", &HeadersList(&record.headers))?;
    }
    bytes_field(map, ["value", "value_base64"], record.value.as_deref())
}

fn bytes_field<M: SerializeMap>(map: &mut M, [text, base64]: [&str; 2], bytes: Option<&[u8]>) -> Result<(), M::Error> {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => map.serialize_entry(text, &()),
        Some(Ok(value)) => map.serialize_entry(text, value),
        Some(Err(bytes)) => map.serialize_entry(base64, &STANDARD.encode(bytes)),
    }
}

/// The header's value as text; `Err` when it is bytes.
fn header_text(header: &Header) -> Result<Option<&str>, &[u8]> {
    header.value.as_deref().map(|value| std::str::from_utf8(value).map_err(|_| value)).transpose()
}

fn is_first_of_its_name(headers: &[Header], at: usize) -> bool {
    let (before, rest) = headers.split_at(at);
    rest.first().is_some_and(|header| before.iter().all(|earlier| earlier.name != header.name))
}

fn object_says_all(headers: &[Header]) -> bool {
    headers.iter().enumerate().all(|(at, header)| header_text(header).is_ok() && is_first_of_its_name(headers, at))
}

struct HeadersObject<'a>(&'a [Header]);

impl Serialize for HeadersObject<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (at, header) in self.0.iter().enumerate() {
            if let (true, Ok(value)) = (is_first_of_its_name(self.0, at), header_text(header)) {
                map.serialize_entry(&header.name, &value)?;
            }
        }
        map.end()
    }
}

struct HeadersList<'a>(&'a [Header]);

impl Serialize for HeadersList<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|header| (&header.name, HeaderValueJson(header))))
    }
}

struct HeaderValueJson<'a>(&'a Header);

impl Serialize for HeaderValueJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match header_text(self.0) {
            Ok(text) => text.serialize(to),
            Err(bytes) => {
                let mut map = to.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(bytes))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn record() -> Record {
        let header = |name: &str, value: Option<&'static [u8]>| Header { name: name.into(), value: value.map(Bytes::from_static) };
        Record {
            topic: "orders".into(),
            partition: 2,
            offset: 41,
            timestamp_ms: 1_700_000_000_000,
            key: Some("k".into()),
            value: Some(r#"{"a": 1}"#.into()),
            headers: vec![header("h", Some(b"v")), header("empty", None)],
        }
    }

    fn shown(record: &Record) -> String {
        serde_json::to_string(&RecordJson(record)).unwrap()
    }

    #[test]
    fn text_is_shown_as_text() {
        assert_eq!(
            shown(&record()),
            r#"{"topic":"orders","partition":2,"offset":41,"timestamp":1700000000000,"key":"k","headers":{"h":"v","empty":null},"value":"{\"a\": 1}"}"#
        );
    }

    #[test]
    fn bytes_are_shown_as_base64_and_absence_as_null() {
        let bytes = Record { key: None, value: Some(Bytes::from_static(b"\xff\x00")), headers: vec![], ..record() };
        let shown: serde_json::Value = serde_json::from_str(&shown(&bytes)).unwrap();
        assert_eq!(shown["value_base64"], "/wA=");
        assert!(shown.get("value").is_none());
        assert!(shown["key"].is_null());
        assert_eq!(shown["headers"], serde_json::json!({}));
    }

    #[test]
    fn headers_an_object_cannot_hold_are_listed_too() {
        let mut odd = record();
        odd.headers.push(Header { name: "h".into(), value: Some("again".into()) });
        odd.headers.push(Header { name: "raw".into(), value: Some(Bytes::from_static(b"\xfe")) });
        let shown: serde_json::Value = serde_json::from_str(&shown(&odd)).unwrap();
        assert_eq!(shown["headers"], serde_json::json!({"h": "v", "empty": null}));
        assert_eq!(shown["headers_list"], serde_json::json!([["h", "v"], ["empty", null], ["h", "again"], ["raw", {"base64": "/g=="}]]));
    }
}
