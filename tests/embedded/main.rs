//! The crate as programs embed it: workers, typed producers and receivers, the broker for tests. No sleeps: clocks are moved by hand.

mod eventflow;
mod support;
mod test_broker;
mod typed;
mod worker;
mod worker_stop;
