//! `onelog quickstart`: the whole life of a record, on real events, in a few seconds - and then a broker to play with.
//!
//! Every number it prints is an answer of the broker. It may be run again on the same directory, also after it was killed:
//! the events are then duplicates, stored once, and another queue group replays them.

mod events;
mod story;
mod workers;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use crate::config::{Config, Listen};
use crate::server::{Server, Signals, drain};

use super::serve::start_logging;
use story::Story;

/// See it work: real events published, leased, retried, dead-lettered and redriven
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Quickstart {
    /// Directory for the broker's data; may be used again
    #[arg(long, value_name = "DIR", default_value = "onelog-data", value_hint = clap::ValueHint::DirPath)]
    data: PathBuf,

    /// Where the HTTP API listens [default: 127.0.0.1:7070, or the next free port]
    #[arg(long, value_name = "ADDRESS")]
    http: Option<Listen>,

    /// Stop at the end instead of leaving the broker running
    #[arg(long)]
    exit: bool,
}

const EXAMPLES: &str = "\
Needs nothing but this program: the 329 webhook events are inside it (examples from @octokit/webhooks-examples, MIT).

Examples:
  onelog quickstart
  onelog quickstart                    again: every event is known, nothing is stored twice
  onelog quickstart --data /tmp/try --exit";

pub async fn run(args: &Quickstart) -> anyhow::Result<ExitCode> {
    let http = args.http.unwrap_or_else(|| Listen::At(free_address()));
    let config = Config { data: args.data.clone(), http, log_level: "warn".to_owned(), ..Config::defaults() };
    config.check()?;
    start_logging(&config);
    let mut signals = Signals::new()?;
    let started = Instant::now();
    let server = Server::start(&config).await?;
    let story = Story::new(&server, &args.data, started.elapsed());
    let told = tokio::select! {
        told = story.tell() => told.map(|()| false),
        _ = signals.next() => Ok(true),
    };
    let interrupted = matches!(told, Ok(true));
    if told.is_ok() && !interrupted && !args.exit {
        story.what_next()?;
        signals.next().await;
    }
    drain(server, &mut signals).await?;
    told.map(|_| ExitCode::SUCCESS)
}

/// The usual port, or one of the next ones when something listens there.
fn free_address() -> SocketAddr {
    let free = (7070..7080).find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    SocketAddr::from((Ipv4Addr::LOCALHOST, free.unwrap_or(0)))
}
