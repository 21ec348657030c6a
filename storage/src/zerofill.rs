//! The thread that writes blocks ahead of the tail, in steps, so that commits overwrite instead of append.
//!
//! Idle it keeps a step ahead; when the writer runs into the end of the blocks it doubles how far ahead it goes. It has its
//! own handles, so it never takes a write-back error away from the writer, and its own failures poison the log as well.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::layout;
use crate::log::writer::{ALLOCATE_BYTES, RESERVE_BYTES};
use crate::log::{Log, is_full};

/// A segment of the default size: at full pace zeros go to another file than commits do, and neither waits for the other's lock.
const AHEAD_BYTES_MAX: u64 = layout::SEGMENT_BYTES_DEFAULT;
/// Blocks for what this many looks would use up at the pace of the last one.
const LOOKS_AHEAD: u64 = 8;
/// How often it looks at the tail; also how fast it can be stopped is up to the condition variable, not this.
const LOOK: Duration = Duration::from_millis(20);
/// After this many quiet looks it goes back to one step ahead and sleeps longer.
const QUIET_LOOKS: u32 = 50;
const LOOK_QUIET: Duration = Duration::from_millis(250);

/// Tells the thread to stop.
#[derive(Default)]
pub struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
    }

    /// True once stopped; waits at most `patience` for it.
    fn wait(&self, patience: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.changed.wait_for(&mut stopped, patience);
        }
        *stopped
    }
}

/// Runs until stopped or the log is poisoned.
pub fn run(log: &Arc<Log>, stop: &Stop) {
    let ahead_idle = log.segments.ahead_bytes.max(ALLOCATE_BYTES);
    let mut pace = ALLOCATE_BYTES;
    let mut last_tail = log.visible();
    let mut quiet = 0;
    while !stop.wait(if quiet > QUIET_LOOKS { LOOK_QUIET } else { LOOK }) && log.check_poison().is_ok() {
        let tail = log.visible();
        let moved = tail.since(last_tail);
        last_tail = tail;
        quiet = if moved == 0 { quiet + 1 } else { 0 };
        if quiet > QUIET_LOOKS {
            pace = ALLOCATE_BYTES;
        }
        pace = pace.max(moved.saturating_mul(LOOKS_AHEAD)).min(AHEAD_BYTES_MAX);
        if moved > 0 {
            // What was made in advance is used up first: the disk has enough to do now.
            fill(log, pace);
        } else if ahead_idle > ALLOCATE_BYTES || log.disk_full.load(Ordering::Relaxed) {
            // A full disk is tried again without anybody publishing: some ask whether there is room before they do.
            let there = log.segments.allocated_end().since(log.visible());
            fill(log, ahead_idle.max(pace).min(there + AHEAD_BYTES_MAX));
        }
    }
}

/// Makes sure that blocks for `ahead` bytes, and the reserve, follow the tail.
pub fn fill(log: &Arc<Log>, ahead: u64) {
    while log.segments.allocated_end().since(log.visible()) < ahead + RESERVE_BYTES {
        match log.segments.allocate(ALLOCATE_BYTES) {
            Ok(_) => log.disk_full.store(false, Ordering::Relaxed),
            // The writer finds out by itself when it needs the room.
            Err(error) if is_full(&error) => return,
            Err(error) => return log.poison(&error),
        }
    }
}
