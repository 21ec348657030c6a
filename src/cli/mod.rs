//! The command line: one subcommand, one file. This file lists them and turns their failures into exit codes.
//!
//! Exit codes: 0 done, 1 failed, 2 asked for something that cannot be (wrong flag, wrong setting). Results go to stdout,
//! everything else to stderr. A closed stdout (`onelog consume t | head`) is a normal end.

mod bench;
mod check;
mod completions;
mod connect;
mod consume;
mod dlq;
mod failure;
mod group;
mod loss;
mod output;
mod produce;
mod quickstart;
mod repair;
mod runtime;
mod serve;
mod terminal;
mod topic;
mod values;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A durable queue: one log, one fsync, every protocol.
#[derive(Parser)]
#[command(name = "onelog", version, propagate_version = true, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  onelog quickstart                                      see it work: publish, lease, retry, dead-letter, redrive
  onelog serve --data ./onelog-data                      start a broker on 127.0.0.1:7070
  onelog topic create orders --partitions 3
  onelog produce orders orders.ndjson --key-field user_id --id-field event_id
  onelog consume orders --from-beginning --exit-at-end --json
  onelog dlq redrive orders --dry-run

`onelog <COMMAND> --help` explains each command with examples.";

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Quickstart(quickstart::Quickstart),
    #[command(subcommand)]
    Topic(topic::Topic),
    Produce(produce::Produce),
    Consume(consume::Consume),
    #[command(subcommand)]
    Group(group::Group),
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    Check(check::Check),
    Repair(repair::Repair),
    Bench(bench::Bench),
    Completions(completions::Completions),
}

/// Runs the program with the arguments of this process.
#[must_use]
pub fn run() -> ExitCode {
    // clap prints help and version itself, and leaves with 2 when an argument is wrong.
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Quickstart(args) => runtime::server()?.block_on(quickstart::run(&args)),
        Command::Topic(args) => runtime::client()?.block_on(topic::run(&args)),
        Command::Produce(args) => runtime::client()?.block_on(produce::run(args)),
        Command::Consume(args) => runtime::client()?.block_on(consume::run(args)),
        Command::Group(args) => runtime::client()?.block_on(group::run(&args)),
        Command::Dlq(args) => runtime::client()?.block_on(dlq::run(&args)),
        Command::Check(args) => check::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// The whole command line as clap knows it, for completions and for tests.
fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples_and_says_what_it_is() {
        fn each(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path} has no description");
                let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(examples.contains("Example"), "{path} has no examples");
                each(sub, &path);
            }
        }
        each(&command(), "onelog");
    }
}
