//! Writes records to stdout: the server's line as it came, or a form for people.

use std::io::{self, Write};

use serde_json::Value;

use crate::cli::values;

/// Counts what it prints and says when it was enough.
pub struct Printer {
    json: bool,
    left: Option<u64>,
}

impl Printer {
    pub fn new(json: bool, max: Option<u64>) -> Self {
        Self { json, left: max }
    }

    pub fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Records still wanted, cut to what one request may ask for.
    pub fn wanted(&self, at_most: u64) -> u64 {
        self.left.map_or(at_most, |left| left.min(at_most))
    }

    /// Prints records, each the JSON text of one, until it was enough; answers with how many. They are with the reader
    /// of stdout when this returns.
    pub fn print<'a>(&mut self, records: impl IntoIterator<Item = &'a str>) -> anyhow::Result<usize> {
        let mut to = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
        let mut printed = 0;
        for record in records {
            if self.is_done() {
                break;
            }
            if self.json {
                to.write_all(record.as_bytes())?;
                to.write_all(b"\n")?;
            } else {
                write_human(&mut to, &serde_json::from_str(record)?)?;
            }
            printed += 1;
            self.left = self.left.map(|left| left - 1);
        }
        to.flush()?;
        Ok(printed)
    }
}

/// `2025-09-12T12:44:00.792Z orders/0@41 key=user_7 source=import  {"the":"value"}`
fn write_human(to: &mut impl Write, record: &Value) -> io::Result<()> {
    let time = record["timestamp"].as_i64().map(values::show_time).unwrap_or_default();
    let place = format!("{}/{}@{}", record["topic"].as_str().unwrap_or_default(), record["partition"], record["offset"]);
    write!(to, "{time} {place}")?;
    if let Some(attempt) = record["attempt"].as_u64().filter(|attempt| *attempt > 1) {
        write!(to, " attempt={attempt}")?;
    }
    if let Some(key) = text(record, "key", "key_base64") {
        write!(to, " key={key}")?;
    }
    for (name, value) in record["headers"].as_object().into_iter().flatten() {
        write!(to, " {name}={}", value.as_str().unwrap_or("null"))?;
    }
    writeln!(to, "  {}", text(record, "value", "value_base64").unwrap_or_else(|| "(no value)".to_owned()))
}

/// Bytes that are no text are shown in base64, and said to be.
fn text(record: &Value, field: &str, base64_field: &str) -> Option<String> {
    let text = record[field].as_str().map(escape_controls);
    text.or_else(|| record[base64_field].as_str().map(|base64| format!("base64:{base64}")))
}

/// A record must not move the cursor or change the colours of the terminal it is shown on.
fn escape_controls(text: &str) -> String {
    text.chars().flat_map(|letter| if letter.is_control() { letter.escape_default().collect() } else { vec![letter] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_human_form_is_one_line_and_leaves_the_terminal_alone() {
        let mut line = Vec::new();
        let record = json!({"topic": "t", "partition": 1, "offset": 41, "timestamp": 0, "key": "k", "headers": {"h": "1"}, "value": "a\n\u{1b}[31mb"});
        write_human(&mut line, &record).unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), "1970-01-01T00:00:00.000Z t/1@41 key=k h=1  a\\n\\u{1b}[31mb\n");
        let mut line = Vec::new();
        write_human(&mut line, &json!({"topic": "t", "partition": 0, "offset": 0, "timestamp": 0, "value_base64": "/w=="})).unwrap();
        assert!(String::from_utf8(line).unwrap().ends_with("  base64:/w==\n"));
    }
}
