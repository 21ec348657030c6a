//! `onelog completions`: a script that teaches a shell the commands and flags.

use std::io::{self, Write};
use std::process::ExitCode;

use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    /// The shell to print it for
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  source <(onelog completions bash)                                 for this session
  onelog completions bash > ~/.local/share/bash-completion/completions/onelog
  onelog completions zsh > \"${fpath[1]}/_onelog\"
  onelog completions fish > ~/.config/fish/completions/onelog.fish";

pub fn run(args: &Completions) -> anyhow::Result<ExitCode> {
    // Rendered before it is written: the generator itself panics when stdout is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "onelog", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
