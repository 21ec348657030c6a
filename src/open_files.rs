//! How many files this process may have open, and how many of them connections may take.
//!
//! A connection is an open file, and so is a segment. When connections took them all the log could not begin its next segment,
//! which is a failed write that only a restart mends; so connections get what the log and the index can do without.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Files kept for the log, the index and the listeners, however few there are.
const KEPT_MIN: usize = 32;
/// Of many files, one in so many is kept: each segment that was read from has one.
const KEPT_PART: usize = 4;

/// Raises the soft limit to the hard one, as every program that may does, and says how many connections there may be, `wanted` at most.
#[must_use]
pub fn connections_max(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        // What is not allowed is not needed: then the lower limit counts.
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let files = limit.current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    within(files).min(wanted)
}

/// Connections that may take part of `files`; one at least, or nobody could ask what is wrong.
fn within(files: usize) -> usize {
    files.saturating_sub(KEPT_MIN.max(files / KEPT_PART)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_files_however_many_there_are() {
        for (files, connections) in [(0, 1), (20, 1), (64, 32), (128, 96), (1_024, 768), (1_000_000, 750_000)] {
            assert_eq!(within(files), connections, "{files}");
        }
        assert_eq!(connections_max(3), 3);
    }
}
