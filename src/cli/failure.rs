//! How a command ends when it cannot do what was asked: one message on stderr, one exit code.

use std::io;
use std::process::ExitCode;

use crate::config::ConfigError;

/// The request itself is wrong: exit code 2, as for a wrong flag.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Prints the failure and names the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    let asked_wrong = error.is::<Usage>() || error.is::<ConfigError>();
    ExitCode::from(if asked_wrong { 2 } else { 1 })
}

/// Whoever read our output has seen enough. Only stdout is written by commands, so no other pipe can be meant.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
