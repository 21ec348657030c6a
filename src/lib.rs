//! onelog: a durable queue in one binary and one crate - one log, one fsync, every protocol.
//!
//! The crate embeds the whole broker: open a directory, publish, receive, ack. What is answered with `Ok` survives a crash.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! use std::time::Duration;
//! use onelog::{Broker, Producer, Receiver, TopicSettings};
//!
//! let broker = Broker::open(directory.path().join("data")).await?;
//! broker.ensure_topic("orders", TopicSettings::default()).await?;
//!
//! let orders = Producer::<(u64, String)>::new(&broker, "orders").id(|(number, _)| number.to_string());
//! orders.send(&(7, "two lamps".to_owned())).await?;
//! assert!(orders.send(&(7, "two lamps".to_owned())).await?.duplicate, "an idempotency key is stored once");
//!
//! let receiver = Receiver::<(u64, String)>::new(&broker, "orders", "shipping", "warehouse-1");
//! let order = receiver.next(Duration::from_secs(1)).await?.expect("one order is there");
//! assert_eq!(order.value.0, 7);
//! order.ack().await?; // Durable: shipping never sees it again. Unacked, it would come again when its lease runs out.
//!
//! broker.close().await?;
//! # Ok(()) }
//! ```
//!
//! | To | use |
//! |---|---|
//! | run a handler for each record, with retries and dead letters | [`Worker`] |
//! | publish and receive values of a type | [`Producer`], [`Receiver`] |
//! | do anything the broker can | [`Broker`] |
//! | test a program against a real broker | [`testing::TestBroker`] |
//! | serve other programs over HTTP | [`http::serve`] |

pub mod broker;
#[doc(hidden)]
pub mod cli;
pub mod client;
pub mod config;
pub mod consumer;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
mod open_files;
pub mod producer;
pub mod server;
pub mod telemetry;
pub mod testing;
pub mod worker;

pub use broker::{
    Broker, BrokerConfig, BrokerError, DeadLetterFilter, Delivery, Failure, FetchRequest, GroupSettings, Header, LeaseError, NewRecord,
    Ordering, Produced, ReceiveRequest, Record, RedriveRequest, RetrySettings, SeekTo, Settled, TopicSettings,
};
pub use consumer::{Received, Receiver, SettleError};
pub use onelog_storage::clock::{Clock, ManualClock, SystemClock};
pub use onelog_storage::types::TimestampMs;
pub use producer::Producer;
pub use worker::{Idempotency, Outcome, Remembered, Worker, WorkerCounts, WorkerHandle};
