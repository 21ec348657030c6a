//! Bodies of HTTP requests: records as JSON, one per line, raw lines, events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onelog::fuzzing::{Body, decode_body};
use onelog_fuzz::{Counting, capped};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A record of two bytes in a list is held as one of fixed size until it is stored; how many there are is limited.
const TIMES: usize = 4;
const RECORDS_BYTES: usize = 10_000 * 640;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    let kinds = [Body::Document, Body::DocumentWithTopics, Body::Lines, Body::RawLines, Body::Events, Body::Edited];
    let kind = kinds[usize::from(*kind) % kinds.len()];
    // `{}` is the shortest record, with a separator three bytes.
    let records = (body.len() / 2 * 640).min(RECORDS_BYTES);
    capped(body.len() + records / TIMES, TIMES, || decode_body(kind, body));
});
