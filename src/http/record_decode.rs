//! Records on their way in: the JSON of a record, of a list of them, of one per line, and lines that are the value itself.
//!
//! Values keep their bytes: a JSON string is stored as the text it stands for, any other JSON exactly as it was received.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{Code, Problem};
use super::iso_time;
use super::json::{self, AtMost};
use crate::broker::{BATCH_RECORDS_MAX, HEADERS_MAX, Header, NewRecord};

/// A record as it is written in JSON. Fields stay text until their turn comes, so that a wrong one can be named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordBody<'a> {
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
    #[serde(borrow)]
    partition: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    key_base64: Option<&'a RawValue>,
    /// `null` is a record without value (a tombstone); leaving the field out is a mistake.
    #[serde(borrow, default, deserialize_with = "json::present")]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    value_base64: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
    #[serde(borrow)]
    headers_list: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

type RecordBodies<'a> = AtMost<RecordBody<'a>, BATCH_RECORDS_MAX>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow)]
    records: RecordBodies<'a>,
}

/// Whether records name their topic themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicField {
    /// The path names it.
    Refused,
    Required,
}

/// A record and, where records name it themselves, its topic.
pub type Decoded = (String, NewRecord);

/// `{"records": [..]}`, an array of records, or a single one.
pub fn document(body: &Bytes, topics: TopicField) -> Result<Vec<Decoded>, Problem> {
    let text = json::text(body)?;
    let bodies = match text.trim_start().as_bytes().first() {
        Some(b'[') => json::read::<RecordBodies>(text)?.0,
        Some(b'{') if first_field_is_records(text) => json::read::<Envelope>(text)?.records.0,
        _ => vec![json::read::<RecordBody>(text)?],
    };
    bodies.into_iter().enumerate().map(|(index, record)| decode(record, topics, body).map_err(|p| p.at_record(index))).collect()
}

/// One record per line; empty lines are passed over.
pub fn lines(body: &Bytes, topics: TopicField) -> Result<Vec<Decoded>, Problem> {
    each_line(body, |line| decode(json::read(json::text(line)?)?, topics, body))
}

/// Where raw lines find their key and idempotency key: paths of field names separated by dots.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawFields<'a> {
    pub key: Option<&'a str>,
    pub id: Option<&'a str>,
}

/// Each line is a value, stored byte for byte without its line break. Key and idempotency key are fields of it.
pub fn raw_lines(body: &Bytes, fields: RawFields<'_>) -> Result<Vec<Decoded>, Problem> {
    each_line(body, |line| {
        let mut record = NewRecord { value: Some(body.slice_ref(line)), ..NewRecord::default() };
        if let Some(path) = fields.key {
            record.key = scalar_at(line, path, body)?;
        }
        if let Some(path) = fields.id {
            // Storing it without would turn a promise of once into a hope: repeats of this line would be stored again.
            let missing = || Problem::field(path, "is missing or null, but `id_field` takes the idempotency key from it");
            record.idempotency_key = Some(scalar_at(line, path, body)?.ok_or_else(missing)?);
        }
        Ok((String::new(), record))
    })
}

/// The fields an edited dead letter may replace; whatever is left out stays.
pub fn edited(body: &Bytes) -> Result<NewRecord, Problem> {
    let record: RecordBody = json::read(json::text(body)?)?;
    let mut new = NewRecord::default();
    for (name, field) in [("topic", record.topic), ("partition", record.partition), ("timestamp", record.timestamp), ("id", record.id)] {
        if field.is_some() {
            return Err(Problem::field(name, "cannot be replaced: a dead letter goes back where it came from"));
        }
    }
    new.key = bytes_of(["key", "key_base64"], record.key, record.key_base64, body)?;
    new.value = value_of(record.value, record.value_base64, body)?;
    new.headers = headers_of(record.headers, record.headers_list)?;
    Ok(new)
}

fn first_field_is_records(text: &str) -> bool {
    text.trim_start().strip_prefix('{').is_some_and(|fields| fields.trim_start().starts_with("\"records\""))
}

fn each_line(body: &Bytes, mut decode: impl FnMut(&[u8]) -> Result<Decoded, Problem>) -> Result<Vec<Decoded>, Problem> {
    let mut decoded = Vec::new();
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        if decoded.len() == BATCH_RECORDS_MAX {
            let detail = format!("the request has more than {BATCH_RECORDS_MAX} records; nothing was stored; send smaller batches");
            return Err(Problem::new(Code::BatchTooLarge, detail));
        }
        decoded.push(decode(line).map_err(|problem| problem.at_record(decoded.len()))?);
    }
    Ok(decoded)
}

fn decode(record: RecordBody<'_>, topics: TopicField, body: &Bytes) -> Result<Decoded, Problem> {
    let topic = match (topics, record.topic) {
        (TopicField::Refused, None) => String::new(),
        (TopicField::Refused, Some(_)) => {
            return Err(Problem::field("topic", "is named by the path here; POST /v1/batch takes several topics"));
        }
        (TopicField::Required, None) => return Err(Problem::field("topic", "is missing")),
        (TopicField::Required, Some(raw)) => json::string(raw).ok_or_else(|| Problem::field("topic", "must be a string"))?.into_owned(),
    };
    if record.value.is_none() && record.value_base64.is_none() {
        return Err(Problem::field("value", "is missing; send null for a record without one"));
    }
    let partition =
        record.partition.map(|raw| json::integer(raw).ok_or_else(|| Problem::field("partition", "must be a whole number from 0")));
    let new = NewRecord {
        partition: partition.transpose()?,
        key: bytes_of(["key", "key_base64"], record.key, record.key_base64, body)?,
        value: value_of(record.value, record.value_base64, body)?,
        headers: headers_of(record.headers, record.headers_list)?,
        timestamp_ms: record.timestamp.map(|raw| timestamp_of("timestamp", raw)).transpose()?,
        idempotency_key: bytes_of(["id", "id"], record.id, None, body)?,
    };
    Ok((topic, new))
}

/// A text that is a part of the body shares its memory.
fn share(text: Cow<'_, str>, body: &Bytes) -> Bytes {
    match text {
        Cow::Borrowed(part) => body.slice_ref(part.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    }
}

fn bytes_of(
    [text_name, base64_name]: [&str; 2],
    text: Option<&RawValue>,
    base64: Option<&RawValue>,
    body: &Bytes,
) -> Result<Option<Bytes>, Problem> {
    match (text, base64) {
        (None, None) => Ok(None),
        (Some(raw), None) => {
            let text = json::string(raw).ok_or_else(|| Problem::field(text_name, "must be a string"))?;
            Ok(Some(share(text, body)))
        }
        (None, Some(raw)) => base64_of(base64_name, raw).map(Some),
        (Some(_), Some(_)) => Err(Problem::field(base64_name, format!("and `{text_name}` cannot both be given"))),
    }
}

fn value_of(value: Option<&RawValue>, base64: Option<&RawValue>, body: &Bytes) -> Result<Option<Bytes>, Problem> {
    match value.map(RawValue::get) {
        None | Some("null") if base64.is_some() => bytes_of(["value", "value_base64"], None, base64, body),
        None | Some("null") => Ok(None),
        Some(text) if text.starts_with('"') || base64.is_some() => bytes_of(["value", "value_base64"], value, base64, body),
        Some(other) => Ok(Some(body.slice_ref(other.as_bytes()))),
    }
}

fn base64_of(name: &str, raw: &RawValue) -> Result<Bytes, Problem> {
    let wrong = || Problem::field(name, "must be a string in base64 (RFC 4648, with padding)");
    let text = json::string(raw).ok_or_else(wrong)?;
    STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(|_| wrong())
}

/// Milliseconds since the epoch, or ISO 8601.
pub fn timestamp_of(name: &str, raw: &RawValue) -> Result<i64, Problem> {
    json::integer(raw)
        .or_else(|| iso_time::millis(&json::string(raw)?))
        .ok_or_else(|| Problem::field(name, "must be milliseconds since the epoch or an ISO 8601 time like 2024-01-15T10:30:00Z"))
}

/// The field as bytes: the text of a string, the digits of a number. `None` when it is missing or null.
fn scalar_at(line: &[u8], path: &str, body: &Bytes) -> Result<Option<Bytes>, Problem> {
    let Some(raw) = json::at_path(json::text(line)?, path).map_err(|error| json::problem(&error))? else { return Ok(None) };
    match raw.get().as_bytes().first() {
        Some(b'{' | b'[') => Err(Problem::field(path, "must be a string or a number")),
        Some(b'n') => Ok(None),
        Some(b'"') => Ok(json::string(raw).map(|text| share(text, body))),
        _ => Ok(Some(body.slice_ref(raw.get().as_bytes()))),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValueBody {
    Text(String),
    Bytes { base64: String },
}

type HeaderPairs = AtMost<(String, Option<HeaderValueBody>), HEADERS_MAX>;

/// An object of name to text, or a list of `[name, value]`.
fn headers_of(headers: Option<&RawValue>, list: Option<&RawValue>) -> Result<Vec<Header>, Problem> {
    // A list is complete, the object beside it only a view of it: see record_json.rs.
    let (name, raw) = match (headers, list) {
        (_, Some(raw)) => ("headers_list", raw),
        (Some(raw), None) => ("headers", raw),
        (None, None) => return Ok(Vec::new()),
    };
    let why = |error: serde_json::Error| {
        Problem::field(name, format!("must be an object of strings, or at most {HEADERS_MAX} pairs [name, value]: {error}"))
    };
    let pairs = if raw.get().starts_with('[') {
        json_pairs(raw).map_err(why)?
    } else {
        let HeaderObject(pairs) = serde_json::from_str(raw.get()).map_err(why)?;
        pairs
    };
    pairs
        .into_iter()
        .map(|(header, value)| {
            let value = match value {
                None => None,
                Some(HeaderValueBody::Text(text)) => Some(Bytes::from(text)),
                Some(HeaderValueBody::Bytes { base64 }) => {
                    Some(STANDARD.decode(base64).map_err(|_| Problem::field(name, format!("`{header}` is not base64")))?.into())
                }
            };
            Ok(Header { name: header.into(), value })
        })
        .collect()
}

fn json_pairs(raw: &RawValue) -> serde_json::Result<Vec<(String, Option<HeaderValueBody>)>> {
    serde_json::from_str::<HeaderPairs>(raw.get()).map(|pairs| pairs.0)
}

/// An object in the order it was written, names that repeat included.
struct HeaderObject(Vec<(String, Option<HeaderValueBody>)>);

impl<'de> Deserialize<'de> for HeaderObject {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> serde::de::Visitor<'de> for InOrder {
            type Value = HeaderObject;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "an object of at most {HEADERS_MAX} headers")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<HeaderObject, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
                    if pairs.len() == HEADERS_MAX {
                        return Err(serde::de::Error::invalid_length(HEADERS_MAX + 1, &self));
                    }
                    pairs.push((name, value.map(HeaderValueBody::Text)));
                }
                Ok(HeaderObject(pairs))
            }
        }
        from.deserialize_map(InOrder)
    }
}

#[cfg(test)]
#[path = "record_decode_tests.rs"]
mod tests;
