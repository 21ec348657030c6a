//! Requests about queue groups and their leases.

pub mod ack;
pub mod alter;
pub mod create;
pub mod delete;
pub mod extend;
pub mod get;
pub mod list;
pub mod nack;
pub mod outcomes;
pub mod receive;
pub mod release;
pub mod seek;
