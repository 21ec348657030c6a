//! Events of the broker and keys of its state, as a log or a checkpoint may hold them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onelog_fuzz::{Counting, capped};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A list that claims to be long gets room for a mebibyte before its elements are looked at, one for each level of lists in
/// lists. These bytes come out of our own log, behind a checksum.
const CONTAINERS_BYTES: usize = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((tag, payload)) = bytes.split_first() else { return };
    capped(payload.len(), 64, CONTAINERS_BYTES, || onelog::fuzzing::decode_event(*tag, payload));
});
