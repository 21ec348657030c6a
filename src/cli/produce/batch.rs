//! One request's worth of lines: how many, and in which form they travel.
//!
//! Lines travel as they are (`raw=true`) and the server takes key and idempotency key from them. Only when headers are
//! asked for does each line become a record in JSON that holds the line as text. Either way a line that cannot be read
//! is found here, where its file and number are still known.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Fields;
use super::lines::{Line, Lines, Place};

/// A request ends at this size, though one line may be longer.
const BATCH_BYTES: usize = 1024 * 1024;
/// A request that is not full waits this long for another line.
const LINGER: Duration = Duration::from_millis(5);

/// Lines ready to be sent.
#[derive(Debug, Default)]
pub struct Batch {
    /// The body: one line or one record per line.
    pub body: Vec<u8>,
    /// Bytes of the input this stands for.
    pub bytes_read: u64,
    places: Vec<Place>,
}

impl Batch {
    /// Collects until the batch is full or no line comes. What ended the input early comes with the lines before it,
    /// which are good and should be sent.
    pub async fn collect(lines: &mut Lines, encoding: &Encoding, lines_max: usize) -> (Self, Option<anyhow::Error>) {
        let mut batch = Self::default();
        while batch.len() < lines_max && batch.body.len() < BATCH_BYTES {
            let next = if batch.is_empty() {
                lines.next().await
            } else {
                let Ok(next) = tokio::time::timeout(LINGER, lines.next()).await else { break };
                next
            };
            match next {
                Ok(Some(line)) => {
                    if let Err(why) = batch.push(line, encoding) {
                        return (batch, Some(why));
                    }
                }
                Ok(None) => break,
                Err(why) => return (batch, Some(why.into())),
            }
        }
        (batch, None)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Where the record of that index stands, counted from 0.
    pub fn place(&self, index: usize) -> Option<&Place> {
        self.places.get(index)
    }

    /// The lines of the batch, in words.
    pub fn span(&self) -> String {
        match (self.places.first(), self.places.last()) {
            (Some(first), Some(last)) if first.file == last.file => format!("{}, lines {} to {}", first.file, first.number, last.number),
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "no lines".to_owned(),
        }
    }

    fn push(&mut self, line: Line, encoding: &Encoding) -> anyhow::Result<()> {
        encoding.write(&line.bytes, &mut self.body).map_err(|why| anyhow::anyhow!("{}: {why}", line.place))?;
        self.bytes_read += line.bytes_read;
        self.places.push(line.place);
        Ok(())
    }
}

/// How a line becomes a part of the body.
#[derive(Debug)]
pub struct Encoding {
    fields: Fields,
}

impl Encoding {
    pub fn new(fields: Fields) -> Self {
        Self { fields }
    }

    fn write(&self, line: &[u8], body: &mut Vec<u8>) -> Result<(), String> {
        let Fields { key_field, id_field, headers } = &self.fields;
        let key = key_field.as_deref().map(|path| scalar(line, path)).transpose()?.flatten();
        let id = id_field.as_deref().map(|path| scalar(line, path)?.ok_or_else(|| missing(path))).transpose()?;
        if headers.is_empty() {
            body.extend_from_slice(line);
        } else {
            serde_json::to_writer(&mut *body, &record(line, key, id, headers)).map_err(|why| why.to_string())?;
        }
        body.push(b'\n');
        Ok(())
    }
}

fn record(line: &[u8], key: Option<String>, id: Option<String>, headers: &[(String, String)]) -> Value {
    let mut record = Map::new();
    // The same as the server does to a raw line.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(text) => record.insert("value".to_owned(), json!(text)),
        Err(_) => record.insert("value_base64".to_owned(), json!(STANDARD.encode(line))),
    };
    // A list, because an object cannot hold a name twice.
    record.insert("headers".to_owned(), json!(headers));
    for (name, text) in [("key", key), ("id", id)] {
        if let Some(text) = text {
            record.insert(name.to_owned(), json!(text));
        }
    }
    Value::Object(record)
}

/// The field as text: of a string its content, of a number or boolean how it is written. `None` when missing or null.
fn scalar(line: &[u8], path: &str) -> Result<Option<String>, String> {
    let document: Value = serde_json::from_slice(line).map_err(|why| format!("not JSON: {why}"))?;
    match path.split('.').try_fold(&document, |value, name| value.get(name)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Object(_) | Value::Array(_)) => Err(format!("field `{path}` must be a string or a number")),
        Some(other) => Ok(Some(other.to_string())),
    }
}

fn missing(path: &str) -> String {
    format!("field `{path}` is missing or null, but --id-field takes the idempotency key from it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(line: &str, fields: Fields) -> Result<String, String> {
        let mut body = Vec::new();
        Encoding::new(fields).write(line.as_bytes(), &mut body)?;
        Ok(String::from_utf8(body).unwrap())
    }

    fn fields(key: &str, id: &str, headers: &[(&str, &str)]) -> Fields {
        let owned = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Fields { key_field: owned(key), id_field: owned(id), headers }
    }

    #[test]
    fn a_raw_line_travels_byte_for_byte() {
        let line = r#"{"b": 1.0,  "a":"\u00e9"}"#;
        assert_eq!(encode(line, fields("b", "a", &[])).unwrap(), format!("{line}\n"));
        assert_eq!(encode("not json", Fields::default()).unwrap(), "not json\n");
    }

    #[test]
    fn headers_turn_a_line_into_a_record_that_holds_it_as_text() {
        let encoded = encode(r#"{"user":{"id":7}}"#, fields("user.id", "", &[("source", "import"), ("source", "again")])).unwrap();
        let record: Value = serde_json::from_str(&encoded).unwrap();
        assert_eq!(record, json!({"value": r#"{"user":{"id":7}}"#, "key": "7", "headers": [["source", "import"], ["source", "again"]]}));
    }

    #[test]
    fn lines_that_cannot_give_a_key_are_refused_here() {
        assert!(encode("{oops", fields("a", "", &[])).unwrap_err().starts_with("not JSON"));
        assert!(encode(r#"{"a":{}}"#, fields("a", "", &[])).unwrap_err().contains("must be a string"));
        assert!(encode("{}", fields("", "a", &[])).unwrap_err().contains("--id-field"));
        assert!(encode("{}", fields("a", "", &[])).is_ok(), "a record without key is a record");
    }
}
