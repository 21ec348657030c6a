//! Events of the broker and keys of its state, as a log or a checkpoint may hold them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onelog_fuzz::{Counting, capped};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(|bytes: &[u8]| {
    let Some((tag, payload)) = bytes.split_first() else { return };
    capped(payload.len(), 64, || onelog::fuzzing::decode_event(*tag, payload));
});
