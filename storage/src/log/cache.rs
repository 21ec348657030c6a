//! Commits in memory: the newest ones, and those read lately. Bounded in bytes; the oldest arrival leaves first.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use super::commit::Commit;
use crate::types::Position;

/// What one cached commit costs beside its bytes.
const OVERHEAD_BYTES: usize = 160;

/// A cache of verified commits by position.
pub struct CommitCache {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    commits: HashMap<Position, Commit>,
    arrivals: VecDeque<Position>,
    bytes: usize,
}

impl CommitCache {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::new(State::default()) }
    }

    pub fn get(&self, at: Position) -> Option<Commit> {
        self.state.lock().commits.get(&at).cloned()
    }

    pub fn insert(&self, commit: Commit) {
        let cost = commit.bytes.len() + OVERHEAD_BYTES;
        let mut state = self.state.lock();
        let at = commit.header.position;
        if cost > self.bytes_max || state.commits.insert(at, commit).is_some() {
            return;
        }
        state.arrivals.push_back(at);
        state.bytes += cost;
        while state.bytes > self.bytes_max {
            let Some(oldest) = state.arrivals.pop_front() else { break };
            if let Some(gone) = state.commits.remove(&oldest) {
                state.bytes = state.bytes.saturating_sub(gone.bytes.len() + OVERHEAD_BYTES);
            }
        }
    }

    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }
}
