//! What the broker promises about groups, through its public face: leases, order, time, dead letters, redrive, reopening.
//!
//! Clocks are moved by hand and nothing sleeps. The numbers (P7 and so on) are those of the project's list of promises.

mod counts;
mod dead_letters;
mod failed_store;
mod full_disk;
mod leases;
mod order;
mod redrive;
mod reopen;
mod retention;
mod seek;
mod support;
