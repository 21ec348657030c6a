//! Requests about records.

pub mod fetch;
pub mod publish;
pub mod publish_batch;
pub mod published;
pub mod resolve;
pub mod tail;
