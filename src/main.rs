//! The `onelog` program: everything it does is in [`onelog::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    onelog::cli::run()
}
