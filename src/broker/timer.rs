//! Deadlines: one ordered set of them, and one task that waits for the next. Works on the machine's clock and on a manual one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_listener::Event;
use onelog_storage::clock::Clock;
use parking_lot::Mutex;

use super::group::QueueGroup;

/// Deadlines of queue groups, and sleeping by the broker's clock.
pub struct Timer {
    clock: Arc<dyn Clock>,
    due: Mutex<BinaryHeap<Reverse<Due>>>,
    changed: Event,
    stopped: AtomicBool,
}

struct Due {
    at: Duration,
    group: Weak<QueueGroup>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Timer {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, due: Mutex::default(), changed: Event::new(), stopped: AtomicBool::new(false) }
    }

    /// Monotonic time.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub async fn sleep_until(&self, deadline: Duration) {
        loop {
            let moved = self.clock.moved().map(|event| event.listen());
            let now = self.now();
            if now >= deadline {
                return;
            }
            match moved {
                Some(moved) => moved.await,
                None => tokio::time::sleep(deadline - now).await,
            }
        }
    }

    /// Asks for `group` to be looked at when `at` has come.
    pub fn note(&self, at: Duration, group: &Arc<QueueGroup>) {
        let mut due = self.due.lock();
        let earlier = due.peek().is_none_or(|Reverse(first)| at < first.at);
        due.push(Reverse(Due { at, group: Arc::downgrade(group) }));
        drop(due);
        if earlier {
            self.changed.notify(usize::MAX);
        }
    }

    /// Lets [`Self::next`] answer `None`.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
        self.changed.notify(usize::MAX);
    }

    /// Waits until a group is due and answers with it; `None` once stopped.
    pub async fn next(&self) -> Option<Arc<QueueGroup>> {
        loop {
            let changed = self.changed.listen();
            if self.stopped.load(Relaxed) {
                return None;
            }
            let first = self.due.lock().peek().map(|Reverse(due)| due.at);
            match first {
                None => changed.await,
                Some(at) if at > self.now() => {
                    tokio::select! {
                        () = changed => {}
                        () = self.sleep_until(at) => {}
                    }
                }
                Some(_) => {
                    let due = self.due.lock().pop();
                    if let Some(group) = due.and_then(|Reverse(due)| due.group.upgrade()) {
                        return Some(group);
                    }
                }
            }
        }
    }
}
