//! onelog: a durable queue in one binary and one crate - one log, one fsync, every protocol.

pub mod broker;
#[doc(hidden)]
pub mod cli;
pub mod client;
pub mod config;
pub mod http;
pub mod server;
pub mod telemetry;

pub use broker::{Broker, BrokerConfig};
