//! Bodies of HTTP requests: records as JSON, one per line, raw lines, events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onelog::fuzzing::{Body, decode_body};
use onelog_fuzz::{ALWAYS_BYTES, Counting, capped};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A record of two bytes in a list is held as one of fixed size until it is stored; how many there are is limited.
const RECORD_BYTES: usize = 640;
const RECORDS_MAX: usize = 10_000;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    let kinds = [Body::Document, Body::DocumentWithTopics, Body::Lines, Body::RawLines, Body::Events, Body::Edited];
    let kind = kinds[usize::from(*kind) % kinds.len()];
    // The shortest raw line is one byte and its line break.
    let records = (body.len() / 2).min(RECORDS_MAX);
    capped(body.len(), 4, ALWAYS_BYTES + records * RECORD_BYTES, || decode_body(kind, body));
});
