//! Numbers for people and machines: counters and histograms, counted where things happen, rendered elsewhere.

pub mod histogram;
pub mod metrics;
pub mod process;
pub mod stripe;
