//! Requests about stream groups: offsets that consumers commit.

pub mod commit;
pub mod delete;
pub mod list;
pub mod offsets;
pub mod seek;
