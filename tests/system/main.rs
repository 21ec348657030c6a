//! The whole program as it is run: the built `onelog`, real sockets, real directories, real crashes.
//!
//! Helpers: [`api`] asks over HTTP, [`client`] is the HTTP it needs, [`machine`] knows what the machine lends to tests,
//! [`workload`] makes the records. Nothing here waits for time to pass: only for answers, ready lines and ends of processes.

mod api;
mod client;
mod machine;
#[path = "../support/mod.rs"]
mod support;
mod workload;

mod bad_input;
mod crash;
mod damage;
mod eventflow;
mod full_disk;
mod publishers;
mod repair;
mod stopping;
mod surface;
mod survey;
mod sync_failure;
mod webhooks;
