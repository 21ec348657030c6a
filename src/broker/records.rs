//! Records between the broker's plain form and Kafka record batches: limits checked on the way in, slices shared on the way out.

use std::sync::Arc;

use bytes::Bytes;
use onelog_storage::batch::{BatchBuilder, BatchView, RecordBody};
use onelog_storage::store::StoredBatch;
use onelog_storage::types::TimestampMs;

use super::error::{BrokerError, Result};
use super::types::{HEADER_BYTES_MAX, HEADERS_MAX, Header, IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX, NewRecord, Record};

/// Bytes of a record that count against its topic's limit.
fn weight(record: &NewRecord) -> (usize, usize) {
    let headers = record.headers.iter().map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len)).sum::<usize>();
    let body = record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
    (body + headers, headers)
}

/// Refuses what no topic takes, or this one does not. Answers with the record's bytes.
pub fn check(record: &NewRecord, topic: &str, index: usize, bytes_max: u32) -> Result<usize> {
    let (bytes, headers) = weight(record);
    if bytes > bytes_max as usize {
        let (bytes, max) = (bytes as u64, u64::from(bytes_max));
        return Err(BrokerError::RecordTooLarge { topic: topic.to_owned(), index, bytes, max });
    }
    let refuse = |why: String| Err(BrokerError::InvalidRequest(format!("record {index}: {why}")));
    if record.key.as_ref().is_some_and(|key| key.len() > KEY_BYTES_MAX) {
        return refuse(format!("its key is longer than {KEY_BYTES_MAX} bytes"));
    }
    if record.headers.len() > HEADERS_MAX || headers > HEADER_BYTES_MAX {
        return refuse(format!("more than {HEADERS_MAX} headers or {HEADER_BYTES_MAX} bytes of headers"));
    }
    match &record.idempotency_key {
        Some(key) if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX => {
            refuse(format!("its idempotency key must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes"))
        }
        _ => Ok(bytes),
    }
}

/// About as many bytes as the record takes in a batch.
pub fn bytes_about(record: &NewRecord) -> usize {
    const FRAMING_BYTES: usize = 16;
    const HEADER_FRAMING_BYTES: usize = 4;
    weight(record).0 + FRAMING_BYTES + record.headers.len() * HEADER_FRAMING_BYTES
}

pub fn encode(record: &NewRecord, now: TimestampMs) -> RecordBody {
    let timestamp = record.timestamp_ms.map_or(now, TimestampMs);
    let headers = record.headers.iter().map(|header| (&*header.name, header.value.as_deref()));
    RecordBody::encode(timestamp, record.key.as_deref(), record.value.as_deref(), headers)
}

/// Encodes a record right into a batch.
pub fn push(record: &NewRecord, now: TimestampMs, batch: &mut BatchBuilder) {
    let timestamp = record.timestamp_ms.map_or(now, TimestampMs);
    let headers = record.headers.iter().map(|header| (&*header.name, header.value.as_deref()));
    batch.push_record(timestamp, record.key.as_deref(), record.value.as_deref(), headers);
}

/// The records of a batch from offset `from` on, at most `most`. Their bytes are slices of the batch.
pub fn decode(stored: &StoredBatch, topic: &Arc<str>, partition: u32, from: i64, most: usize, out: &mut Vec<Record>) -> Result<()> {
    let damaged = |error: onelog_storage::error::StorageError| BrokerError::Damaged { what: error.to_string() };
    let batch = BatchView::parse(&stored.bytes).map_err(damaged)?;
    for record in batch.records().map_err(damaged)? {
        let record = record.map_err(damaged)?;
        let offset = stored.base_offset.0 + i64::from(record.offset_delta);
        if offset < from {
            continue;
        }
        if out.len() >= most {
            break;
        }
        let share = |bytes: &[u8]| stored.bytes.slice_ref(bytes);
        let mut headers = Vec::new();
        for (name, value) in record.headers() {
            headers.push(Header { name: name.into(), value: value.map(share) });
        }
        out.push(Record {
            topic: Arc::clone(topic),
            partition,
            offset,
            timestamp_ms: record.timestamp.0,
            key: record.key.map(share),
            value: record.value.map(share),
            headers,
        });
    }
    Ok(())
}
