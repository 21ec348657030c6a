//! Requests about onelog itself: what it is, how it is, what it counted, what it can do.

pub mod docs;
pub mod health;
pub mod info;
pub mod live;
pub mod metrics;
pub mod openapi;
pub mod ready;
pub mod summary;
