//! Requests about topics.

pub mod alter;
pub mod create;
pub mod delete;
pub mod get;
pub mod list;
