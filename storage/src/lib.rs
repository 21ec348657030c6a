//! onelog-storage: one append-only log, one thread that writes and syncs it, and the views folded from it.
//!
//! Synchronous; knows no tokio, no network, no topic and no consumer group: partitions, records and opaque events.
//! Floors from the bottom: [`types`] [`error`] [`clock`] [`layout`] [`codec`] [`batch`] · [`io`] · [`log`] · [`index`] · `checkpoint` ·
//! `recovery` · [`store`] (the facade, the only part the broker uses).

pub mod batch;
pub mod check;
mod checkpoint;
pub mod clock;
pub mod codec;
pub mod error;
pub mod index;
pub mod io;
pub mod layout;
pub mod ledger;
pub mod log;
pub mod partition;
mod pump;
mod recovery;
pub mod repair;
mod sequencer;
pub mod store;
mod store_file;
pub mod submission;
mod survey;
pub mod types;
mod views;
mod zerofill;

pub use checkpoint::StateChange;
pub use recovery::{Opening, RecoveredEvent, RecoveryReport};
pub use store::{Store, StoreConfig, Threads};
