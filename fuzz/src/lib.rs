//! What the targets share: an allocator that counts, and the cap on what decoding may take.
//!
//! A decoder must not let the sender choose how much memory it takes: while it runs, the peak of allocated bytes stays below
//! a multiple of its input. The multiple is each target's own, because some inputs stand for more than their bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The allocator of the fuzzing programs.
pub struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; beside it numbers are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Allowed whatever the input: buffers, error texts.
pub const ALWAYS_BYTES: usize = 64 * 1024;

/// Runs `decode` and fails when its peak of memory was more than `times` its input and `always` bytes.
pub fn capped<T>(input_bytes: usize, times: usize, always: usize, decode: impl FnOnce() -> T) -> T {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let decoded = decode();
    let took = PEAK.load(Relaxed).saturating_sub(before);
    let most = input_bytes * times + always;
    assert!(took <= most, "decoding {input_bytes} bytes took {took} bytes of memory, more than {most}");
    decoded
}
