//! Numbers for people and machines: counters and histograms, counted where things happen, rendered elsewhere.

pub mod histogram;
