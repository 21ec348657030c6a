//! The records a benchmark sends: events of a given size with ids that no other run uses.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// The smallest event: all fields, no filling.
pub const VALUE_BYTES_MIN: u32 = 200;

/// Writes events.
#[derive(Debug, Clone)]
pub struct Payload {
    bytes: usize,
    /// Half of each id; the other half is the record's number.
    run: u64,
    origin: Instant,
    timestamp: String,
}

/// The part of an event that is read back.
#[derive(Deserialize)]
struct Sent {
    properties: Properties,
}

#[derive(Deserialize)]
struct Properties {
    sent_us: u64,
}

impl Payload {
    pub fn new(bytes: u32) -> anyhow::Result<Self> {
        let run = getrandom::u64().map_err(|why| anyhow::anyhow!("no random number for this run: {why}"))?;
        Ok(Self { bytes: bytes as usize, run, origin: Instant::now(), timestamp: format!("{:.3}", jiff::Timestamp::now()) })
    }

    /// Names this run, for groups and topics of its own.
    pub fn run_name(&self) -> String {
        format!("onelog-bench-{:016x}", self.run)
    }

    /// The id of record `number`: a UUID (version 4 in form).
    pub fn id(&self, number: u64) -> String {
        let (high, low) = (self.run, number);
        format!("{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", high >> 32, (high >> 16) & 0xffff, high & 0xfff, low >> 48, low & 0xffff_ffff_ffff)
    }

    /// Appends one event that was due at `due`.
    pub fn write(&self, to: &mut Vec<u8>, number: u64, due: Instant) {
        let start = to.len();
        let mut text = String::with_capacity(self.bytes);
        let sent_us = u64::try_from(due.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            r#"{{"event_id":"{}","event_type":"page_view","user_id":"user_{}","timestamp":"{}","properties":{{"sent_us":{sent_us},"pad":""#,
            self.id(number),
            number % 1_000,
            self.timestamp,
        );
        to.extend_from_slice(text.as_bytes());
        let filled = (start + self.bytes).saturating_sub(3).max(to.len());
        to.resize(filled, b'x');
        to.extend_from_slice(br#""}}"#);
    }

    /// How long ago the event with this value was due; nothing when the value is not one of ours.
    pub fn age(&self, value: &[u8]) -> Option<Duration> {
        let sent: Sent = serde_json::from_slice(value).ok()?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_micros(sent.properties.sent_us)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_json_of_the_size_asked_for_with_ids_of_their_own() {
        let payload = Payload::new(300).unwrap();
        let mut value = Vec::new();
        payload.write(&mut value, 7, Instant::now());
        assert_eq!(value.len(), 300);
        assert!(payload.age(&value).is_some_and(|age| age < Duration::from_secs(60)));
        assert!(uuid::Uuid::parse_str(&payload.id(7)).is_ok());
        assert_ne!(payload.id(7), payload.id(8));
        let small = Payload::new(VALUE_BYTES_MIN).unwrap();
        value.clear();
        small.write(&mut value, 999, Instant::now() + Duration::from_secs(3_600));
        assert_eq!(value.len(), VALUE_BYTES_MIN as usize, "the least size must hold all fields");
    }
}
