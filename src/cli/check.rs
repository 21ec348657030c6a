//! `onelog check`: verifies a directory without changing its log, and says what is there and what is lost.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use onelog_storage::check::check_dir;
use onelog_storage::io::Io;
use onelog_storage::io::disk::Disk;
use serde::Serialize;

use crate::config::size;

use super::output::{self, Format};

/// Verify a data directory offline, byte by byte, without changing its log
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Check {
    /// The data directory; no broker may be running on it
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,

    #[command(flatten)]
    format: Format,
}

const EXAMPLES: &str = "\
Reads every commit of the log and checks what it proves about itself and its neighbours. A torn tail - a last write that
was never acknowledged, cut off by a crash - is normal and reported as such; anything else that does not fit is damage.
Exit code 0: whole; 1: damaged, or the directory cannot be read.

Examples:
  onelog check ./onelog-data
  onelog check ./onelog-data --json";

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    pub segments: u64,
    pub commits: u64,
    pub records: u64,
    /// Bytes of valid commits.
    pub bytes: u64,
    /// Where the valid log ends.
    pub last_position: u64,
    /// Why the bytes behind it are no commit, if there are any; they were never acknowledged.
    pub torn_tail: Option<String>,
    pub partitions: u64,
    pub events: u64,
    /// Position up to which the index saves work when opening; `None` when it will be rebuilt.
    pub checkpoint: Option<u64>,
    pub damages: Vec<Damage>,
}

/// One place that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub file: String,
    /// Position in the log.
    pub position: u64,
    pub what: String,
    /// What cannot be read any more, in words.
    pub lost: String,
}

pub fn run(args: &Check) -> anyhow::Result<ExitCode> {
    let report = verify(&args.dir)?;
    if args.format.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.damages.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verify(dir: &Path) -> anyhow::Result<CheckReport> {
    let io: Arc<dyn Io> = Arc::new(Disk);
    let found = check_dir(&io, dir, &format!("onelog check (process {})", std::process::id()))?;
    let damage = |damage: onelog_storage::check::Damage| Damage {
        file: damage.file.display().to_string(),
        position: damage.position.0,
        lost: damage.until.map_or_else(|| "unknown".to_owned(), |until| format!("{} of log", size::show(until.since(damage.position)))),
        what: damage.what,
    };
    Ok(CheckReport {
        segments: found.segments,
        commits: found.commits,
        records: found.records,
        bytes: found.bytes,
        last_position: found.end.0,
        torn_tail: found.torn_tail,
        partitions: found.partitions,
        events: found.events,
        checkpoint: found.checkpoint.map(|position| position.0),
        damages: found.damages.into_iter().map(damage).collect(),
    })
}

fn print(report: &CheckReport) -> anyhow::Result<()> {
    output::line(&format!(
        "{} records in {} commits, {} in {} segments, up to position {}",
        report.records,
        report.commits,
        size::show(report.bytes),
        report.segments,
        report.last_position
    ))?;
    if let Some(why) = &report.torn_tail {
        output::line(&format!("torn tail: behind the last commit: {why}; never acknowledged, the next start overwrites it"))?;
    }
    if report.checkpoint.is_none() {
        output::line("index: none that fits; the next start rebuilds it from the log")?;
    }
    for damage in &report.damages {
        output::line(&format!("DAMAGE {} at position {}: {}; lost: {}", damage.file, damage.position, damage.what, damage.lost))?;
    }
    match report.damages.len() {
        0 => output::line("ok: everything that was acknowledged is there"),
        count => {
            let places = if count == 1 { "1 damaged place".to_owned() } else { format!("{count} damaged places") };
            output::line(&format!("{places}; nothing was changed. Keep a copy of the directory before anything else"))
        }
    }
}
