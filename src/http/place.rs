//! A place in a partition as requests write it: earliest, latest, an offset or a time.

use serde::Deserialize;
use serde_json::Value;

use super::error::{Code, Problem};
use super::iso_time;
use crate::broker::SeekTo;

/// A place in a query: at most one of the three.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlaceQuery {
    pub offset: Option<i64>,
    /// `earliest` or `latest`.
    #[serde(alias = "at")]
    pub from: Option<String>,
    /// Milliseconds since the epoch or ISO 8601.
    pub time: Option<String>,
}

impl PlaceQuery {
    /// The place, `None` when the query names none.
    pub fn place(&self) -> Result<Option<SeekTo>, Problem> {
        let wrong = |why: String| Problem::new(Code::InvalidQuery, why);
        match (self.offset, self.from.as_deref(), self.time.as_deref()) {
            (None, None, None) => Ok(None),
            (Some(offset), None, None) => Ok(Some(SeekTo::Offset(offset))),
            (None, Some("earliest"), None) => Ok(Some(SeekTo::Earliest)),
            (None, Some("latest"), None) => Ok(Some(SeekTo::Latest)),
            (None, Some(other), None) => Err(wrong(format!("`{other}` is neither `earliest` nor `latest`"))),
            (None, None, Some(time)) => {
                let millis = time.parse().ok().or_else(|| iso_time::millis(time));
                let ms = millis.ok_or_else(|| wrong(format!("`{time}` is neither milliseconds since the epoch nor an ISO 8601 time")))?;
                Ok(Some(SeekTo::Time(ms)))
            }
            _ => Err(wrong("name one place only: an offset, earliest or latest, or a time".to_owned())),
        }
    }
}

/// A place in a body: `"earliest"`, `"latest"`, `{"offset": 7}` or `{"time": ..}`.
pub fn from_json(to: &Value) -> Result<SeekTo, Problem> {
    let wrong = || Problem::field("to", r#"must be "earliest", "latest", {"offset": n} or {"time": milliseconds or ISO 8601}"#);
    match to {
        Value::String(word) if word == "earliest" => Ok(SeekTo::Earliest),
        Value::String(word) if word == "latest" => Ok(SeekTo::Latest),
        Value::Object(fields) if fields.len() == 1 => match fields.iter().next() {
            Some((name, Value::Number(number))) if name == "offset" => number.as_i64().map(SeekTo::Offset).ok_or_else(wrong),
            Some((name, Value::Number(number))) if name == "time" => number.as_i64().map(SeekTo::Time).ok_or_else(wrong),
            Some((name, Value::String(text))) if name == "time" => iso_time::millis(text).map(SeekTo::Time).ok_or_else(wrong),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

/// Dead letters and other records are named `partition-offset` in queries.
pub fn record_id(text: &str) -> Result<(u32, i64), Problem> {
    text.split_once('-')
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
        .ok_or_else(|| Problem::new(Code::InvalidQuery, format!("`{text}` is not `partition-offset`, such as 0-41")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_in_bodies() {
        assert_eq!(from_json(&json!("latest")).unwrap(), SeekTo::Latest);
        assert_eq!(from_json(&json!({"offset": 7})).unwrap(), SeekTo::Offset(7));
        assert_eq!(from_json(&json!({"time": "1970-01-01T00:00:01"})).unwrap(), SeekTo::Time(1000));
        assert_eq!(from_json(&json!({"time": 5})).unwrap(), SeekTo::Time(5));
        for wrong in [json!("start"), json!({"offset": 1.5}), json!({"offset": 1, "time": 2}), json!(3), json!({"offset": "1"})] {
            assert_eq!(from_json(&wrong).unwrap_err().field_name(), Some("to"), "{wrong}");
        }
    }

    #[test]
    fn places_in_queries() {
        let of = |offset, from: Option<&str>, time: Option<&str>| {
            PlaceQuery { offset, from: from.map(str::to_owned), time: time.map(str::to_owned) }.place()
        };
        assert_eq!(of(None, None, None).unwrap(), None);
        assert_eq!(of(Some(3), None, None).unwrap(), Some(SeekTo::Offset(3)));
        assert_eq!(of(None, Some("latest"), None).unwrap(), Some(SeekTo::Latest));
        assert_eq!(of(None, None, Some("1000")).unwrap(), Some(SeekTo::Time(1000)));
        assert!(of(Some(3), Some("latest"), None).is_err());
        assert!(of(None, None, Some("noon")).is_err());
    }
}
