//! onelog: a durable queue in one binary and one crate - one log, one fsync, every protocol.

pub mod broker;
pub mod http;
pub mod telemetry;

pub use broker::{Broker, BrokerConfig};
