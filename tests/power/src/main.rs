//! onelog-power: real power cuts. A journaled ext4 lies on a loop device over a file that this program serves through FUSE, so
//! that it sees every block write and every flush. Onelog runs on it, in this process or as the built program. A power cut is
//! what was flushed plus a random part of what was not; it is mounted, which replays the journal, and the broker is opened on
//! it: everything answered ok must be there.
//!
//! See `docs/testing.md`. Tests onelog; no part of it.

#[cfg(target_os = "linux")]
mod bad_block;
#[cfg(target_os = "linux")]
mod broken;
#[cfg(target_os = "linux")]
mod campaign;
#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod counter;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod disk_process;
#[cfg(target_os = "linux")]
mod door;
#[cfg(target_os = "linux")]
mod fuse;
#[cfg(target_os = "linux")]
mod history;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod random;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    linux::run()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("skipped: needs Linux: power cuts");
    ExitCode::FAILURE
}
