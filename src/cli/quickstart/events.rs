//! The events of the quickstart: real webhook payloads, one to a line, inside the program (3.3 MB of it), so that the
//! binary alone is enough. Licence: tests/data/github-webhooks.LICENSE.

use bytes::Bytes;
use serde::Deserialize;

use crate::broker::{Header, NewRecord};

/// The file as it is.
pub static FILE: &[u8] = include_bytes!("../../../tests/data/github-webhooks.ndjson");

/// Header that carries an event's type, so that dead letters can be chosen by it.
pub const TYPE_HEADER: &str = "event_type";

#[derive(Deserialize)]
struct Envelope {
    event_id: String,
    event_type: String,
    /// The repository or account.
    key: String,
}

/// Every line as a record: the line as value, byte for byte, its `key` as key, its `event_id` as idempotency key.
pub fn records() -> serde_json::Result<Vec<NewRecord>> {
    FILE.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(record).collect()
}

fn record(line: &'static [u8]) -> serde_json::Result<NewRecord> {
    let event: Envelope = serde_json::from_slice(line)?;
    Ok(NewRecord {
        key: Some(event.key.into()),
        value: Some(Bytes::from_static(line)),
        headers: vec![Header { name: TYPE_HEADER.into(), value: Some(event.event_type.into()) }],
        idempotency_key: Some(event.event_id.into()),
        ..NewRecord::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_event_has_an_id_of_its_own() {
        let records = records().unwrap();
        let ids: HashSet<_> = records.iter().filter_map(|record| record.idempotency_key.clone()).collect();
        assert_eq!((records.len(), ids.len()), (329, 329));
    }
}
