//! `onelog check`: verifies a directory without changing its log, and says what is there and what is lost.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use onelog_storage::check::check_dir_with;
use onelog_storage::io::Io;
use onelog_storage::io::disk::Disk;
use serde::Serialize;

use crate::broker::salvage::Salvager;
use crate::config::size;

use super::loss::Loss;
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
was never acknowledged, cut off by a crash - is normal and reported as such; anything else that does not fit is damage, told
by file and position, by partition and offsets, and by what it means for queue groups.

Exit code 0: whole; 1: damaged, or the directory cannot be read or is in use; 2: wrong arguments.

Examples:
  onelog check ./onelog-data
  onelog check ./onelog-data --json
  onelog repair ./onelog-data --into ./repaired          when it says that something is lost";

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
    /// Why the index will be rebuilt, if it will.
    pub index: Option<String>,
    /// Offsets that an earlier repair found lost.
    pub lost_before: u64,
    #[serde(flatten)]
    pub loss: Loss,
    /// What to do now, in words.
    pub next: String,
}

pub fn run(args: &Check) -> anyhow::Result<ExitCode> {
    let report = verify(&args.dir)?;
    if args.format.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.loss.damages.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verify(dir: &Path) -> anyhow::Result<CheckReport> {
    let io: Arc<dyn Io> = Arc::new(Disk);
    let mut salvager = Salvager::new(0);
    let found = check_dir_with(&io, dir, &format!("onelog check (process {})", std::process::id()), &mut salvager)?;
    let loss = Loss::of(&found, &salvager);
    let lost_before = found.partitions.values().flat_map(|partition| &partition.lost_before);
    Ok(CheckReport {
        segments: found.segments,
        commits: found.commits,
        records: found.records,
        bytes: found.bytes,
        last_position: found.end.0,
        lost_before: lost_before.map(|range| range.from.0.abs_diff(range.to.0)).sum(),
        torn_tail: found.torn_tail,
        partitions: found.partitions.len() as u64,
        events: found.events,
        checkpoint: found.checkpoint.map(|position| position.0),
        index: found.index,
        next: advice(&loss, dir),
        loss,
    })
}

fn advice(loss: &Loss, dir: &Path) -> String {
    let dir = dir.display();
    if loss.damages.is_empty() {
        return "nothing: everything that was acknowledged is there".to_owned();
    }
    if loss.damages.iter().any(|damage| damage.what.contains("renamed, swapped or copied")) {
        return "files stand in each other's place: put them back by their names first, in a copy of the directory, and check again"
            .to_owned();
    }
    format!(
        "keep a copy of {dir}; if a backup or the original disk has the files named above, put them back and check again; \
         otherwise `onelog repair {dir} --into NEW_DIR` saves what is good"
    )
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
    if let Some(why) = &report.index {
        output::line(&format!("index: {why}; the next start rebuilds it from the log"))?;
    }
    if report.lost_before > 0 {
        output::line(&format!("{} offsets were found lost by an earlier repair", report.lost_before))?;
    }
    report.loss.print()?;
    match report.loss.damages.len() {
        0 => output::line("ok: everything that was acknowledged is there"),
        count => {
            let places = if count == 1 { "1 damaged place".to_owned() } else { format!("{count} damaged places") };
            output::line(&format!("{places}; nothing was changed. What to do: {}", report.next))
        }
    }
}
