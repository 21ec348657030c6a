//! A dead letter as JSON: where it lies, the story of its failure, and the record as it was published.

use serde::Serialize;

use crate::broker::DeadLetter;
use crate::http::record_json::RecordJson;

#[derive(Serialize)]
pub struct DeadLetterJson<'a> {
    partition: u32,
    offset: i64,
    origin_topic: &'a str,
    origin_partition: u32,
    origin_offset: i64,
    group: &'a str,
    reason: &'a str,
    attempts: u32,
    first_failure_ms: i64,
    last_failure_ms: i64,
    member: &'a str,
    record: RecordJson<'a>,
}

impl<'a> From<&'a DeadLetter> for DeadLetterJson<'a> {
    fn from(letter: &'a DeadLetter) -> Self {
        Self {
            partition: letter.partition,
            offset: letter.offset,
            origin_topic: &letter.origin_topic,
            origin_partition: letter.origin_partition,
            origin_offset: letter.origin_offset,
            group: &letter.group,
            reason: &letter.reason,
            attempts: letter.attempts,
            first_failure_ms: letter.first_failure_ms,
            last_failure_ms: letter.last_failure_ms,
            member: &letter.member,
            record: RecordJson(&letter.record),
        }
    }
}
