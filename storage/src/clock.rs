//! Time as the store and the broker see it: a wall clock for stamps, a monotonic clock for deadlines.
//!
//! The only file of this crate that may ask the operating system for the time. Tests use [`ManualClock`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use event_listener::Event;
use parking_lot::Mutex;

use crate::types::TimestampMs;

/// Two clocks. Deadlines must use [`Clock::monotonic`], stamps [`Clock::wall`].
pub trait Clock: Send + Sync {
    /// Wall-clock time. May jump in either direction.
    fn wall(&self) -> TimestampMs;
    /// Time since an arbitrary start. Never goes back.
    fn monotonic(&self) -> Duration;
    /// Rung at each change of a clock that is moved by hand; `None` for one that runs by itself.
    fn moved(&self) -> Option<Arc<Event>>;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn wall(&self) -> TimestampMs {
        let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        TimestampMs(ms)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn moved(&self) -> Option<Arc<Event>> {
        None
    }
}

/// A clock that stands still until it is moved. Both of its hands can be moved apart.
#[derive(Debug)]
pub struct ManualClock {
    hands: Mutex<(TimestampMs, Duration)>,
    moved: Arc<Event>,
}

impl ManualClock {
    /// A clock that shows `wall` and zero monotonic time.
    #[must_use]
    pub fn at(wall: TimestampMs) -> Self {
        Self { hands: Mutex::new((wall, Duration::ZERO)), moved: Arc::new(Event::new()) }
    }

    /// Lets `by` pass on both hands and wakes whoever waits for a deadline.
    pub fn advance(&self, by: Duration) {
        {
            let mut hands = self.hands.lock();
            hands.0.0 = hands.0.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
            hands.1 = hands.1.saturating_add(by);
        }
        self.moved.notify(usize::MAX);
    }

    /// Moves only the wall clock, as an administrator or a bad time server does.
    pub fn set_wall(&self, wall: TimestampMs) {
        self.hands.lock().0 = wall;
        self.moved.notify(usize::MAX);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> TimestampMs {
        self.hands.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.hands.lock().1
    }

    fn moved(&self) -> Option<Arc<Event>> {
        Some(Arc::clone(&self.moved))
    }
}
