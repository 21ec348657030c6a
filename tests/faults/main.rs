//! The program under faults, and the checker that reads what its clients saw.
//!
//! Each test makes a [`recorder`] of clients, does something bad to the program, opens the directory again without any fault
//! and holds the whole [`history`] against the promises ([`checker`]). How much is done is small here; variables turn it up:
//! `ONELOG_FAULT_POINTS` (a number, or `all`), `ONELOG_FAULT_SEED`, `ONELOG_FAULT_STOP_SECONDS`.

#[allow(dead_code, reason = "each test program uses its part of it")]
#[path = "../system/api.rs"]
mod api;
#[allow(dead_code, reason = "each test program uses its part of it")]
#[path = "../system/client.rs"]
mod client;
#[allow(dead_code, reason = "each test program uses its part of it")]
#[path = "../system/machine.rs"]
mod machine;
#[path = "../support/mod.rs"]
mod support;

mod checker;
mod checker_tests;
mod history;
mod recorder;
mod tracer;
mod work;

mod clock;
mod ending;
mod errors;
mod few_files;
mod kill;
mod memory;
mod reset;
mod stopped;
