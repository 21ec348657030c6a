//! Damage to a directory, one place at a time: every bit, any length, any file. What is read afterwards is what was written,
//! or an error that names the place; nothing acknowledged goes missing in silence, and a refusal changes no byte.
//!
//! `ONELOG_FLIPS` is how many bits are flipped, each in a copy of its own; `ONELOG_FLIP_SEED` where sampling begins.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod files;
mod flips;
mod repairs;
mod world;
