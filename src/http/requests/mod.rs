//! One file per request: its query and body, one call to the broker, its answer. The list of them is `routes.rs`.

pub mod dead_letters;
pub mod events;
pub mod groups;
pub mod records;
pub mod stream_groups;
pub mod system;
pub mod topics;
