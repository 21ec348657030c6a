//! The writer's work without its thread: whoever opened the store lets it take turns. For tests that must run the same way twice.
//!
//! Does what the thread does, in the same order, by the same functions. Waits for nothing and knows no time.

use parking_lot::Mutex;

use super::{Pump, Queued, round_of};

/// The writer of a store without threads.
pub struct Turns(Mutex<Option<Hand>>);

struct Hand {
    pump: Pump,
    /// Taken from the queue, not in a commit yet.
    waiting: Vec<Queued>,
}

impl Turns {
    pub fn new(pump: Pump) -> Self {
        Self(Mutex::new(Some(Hand { pump, waiting: Vec::new() })))
    }

    /// One commit of what waits: take, stage, write, sync, publish, answer. False when nothing waited.
    pub fn turn(&self) -> bool {
        self.0.lock().as_mut().is_some_and(Hand::turn)
    }

    /// As [`Self::turn`], and calls `between` when the commit is durable and nobody sees it yet.
    pub fn turn_with(&self, between: Box<dyn FnMut() + Send>) -> bool {
        let mut hand = self.0.lock();
        let Some(hand) = hand.as_mut() else { return false };
        hand.pump.between = Some(between);
        let turned = hand.turn();
        hand.pump.between = None;
        turned
    }

    /// What the thread does after a while without work.
    pub fn idle(&self) {
        if let Some(hand) = self.0.lock().as_mut() {
            hand.pump.settle_idle();
        }
    }

    /// Writes what waits and ends. The queue is closed already.
    pub fn close(&self) {
        let Some(mut hand) = self.0.lock().take() else { return };
        while hand.turn() {}
        hand.pump.settle_idle();
    }
}

impl Hand {
    fn turn(&mut self) -> bool {
        if self.waiting.is_empty() {
            self.pump.queue.take_now(&mut self.waiting);
        }
        if self.waiting.is_empty() {
            return false;
        }
        let (count, bytes) = round_of(&self.waiting);
        self.pump.commit(&mut self.waiting, count, bytes);
        true
    }
}

impl super::Queue {
    /// All that waits, into the empty `batch`.
    fn take_now(&self, batch: &mut Vec<Queued>) {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.waiting, batch);
        state.bytes = 0;
        drop(state);
        self.room.notify(usize::MAX);
    }
}
