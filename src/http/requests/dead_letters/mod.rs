//! Requests about dead letters. The topic of their paths is the one the records came from.

pub mod get;
pub mod list;
pub mod purge;
pub mod redrive;
pub mod redrive_one;
pub mod view;
