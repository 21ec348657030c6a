//! `onelog repair`: saves what is provably good of a damaged directory into a new one, and reports what is lost.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use onelog_storage::clock::{Clock, SystemClock};
use onelog_storage::io::Io;
use onelog_storage::io::disk::Disk;
use onelog_storage::repair::Salvage;
use serde::Serialize;

use crate::broker::salvage::Salvager;
use crate::config::size;

use super::failure::Usage;
use super::loss::Loss;
use super::output::{self, Format};

/// Save what is good of a damaged data directory into a new one
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Repair {
    /// The damaged directory; it is only read, and no broker may be running on it
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,

    /// The new directory; it must be empty or not exist
    #[arg(long, value_name = "NEW_DIR", value_hint = clap::ValueHint::DirPath)]
    into: PathBuf,

    #[command(flatten)]
    format: Format,
}

const EXAMPLES: &str = "\
Every record that is whole keeps its partition and offset. What is lost becomes a lost range: reading there says so, queue
groups pass over it, and its offsets are never given out again. Nothing is written to DIR but a name in its LOCK.

Exit code 0: NEW_DIR holds what is good, and the report says what is lost; 1: it failed; 2: nothing is damaged, or NEW_DIR is
not empty: nothing was written.

Examples:
  onelog check ./onelog-data
  onelog repair ./onelog-data --into ./repaired
  onelog serve --data ./repaired";

/// What was saved and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    pub from: String,
    pub into: String,
    pub commits: u64,
    pub records: u64,
    pub topics: u64,
    pub groups_known: u64,
    /// Whether the state of topics and groups is the checkpoint's; otherwise it is what the events that are left tell.
    pub state_from_checkpoint: bool,
    /// Topics that were made for partitions of which no topic is known.
    pub made_topics: Vec<String>,
    pub keys: u64,
    /// Keys the old index knew that are gone with their records, or whose log was given up; `None` when nobody knows.
    pub keys_forgotten: Option<u64>,
    pub bytes_written: u64,
    #[serde(flatten)]
    pub loss: Loss,
}

pub fn run(args: &Repair) -> anyhow::Result<ExitCode> {
    let io: Arc<dyn Io> = Arc::new(Disk);
    refuse_bad_target(&args.dir, &args.into)?;
    let was_there = args.into.exists();
    let holder = format!("onelog repair (process {})", std::process::id());
    let opened = Salvage::open(&io, &args.dir, &args.into, &holder);
    let Some(salvage) = opened.inspect_err(|_| forget(&args.into, was_there))? else {
        forget(&args.into, was_there);
        return Err(
            Usage(format!("nothing is damaged in {}: there is nothing to repair, and nothing was written", args.dir.display())).into()
        );
    };
    let now = SystemClock::default().wall();
    let mut salvager = Salvager::new(now.0);
    let done = salvage.run(&mut salvager, now)?;
    let report = RepairReport {
        from: args.dir.display().to_string(),
        into: args.into.display().to_string(),
        commits: done.found.commits,
        records: done.found.records,
        topics: salvager.topics() as u64,
        groups_known: salvager.groups() as u64,
        state_from_checkpoint: done.state_from_checkpoint,
        made_topics: salvager.made_topics.clone(),
        keys: done.keys,
        keys_forgotten: done.keys_forgotten,
        bytes_written: done.bytes_written,
        loss: Loss::of(&done.found, &salvager),
    };
    if args.format.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse_bad_target(dir: &Path, into: &Path) -> anyhow::Result<()> {
    if std::fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Usage(format!("{} is not empty; name a new directory", into.display())).into());
    }
    let is_inside = std::fs::canonicalize(dir)
        .ok()
        .zip(into.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }))
        .and_then(|(dir, parent)| Some(std::fs::canonicalize(parent).ok()?.starts_with(dir)));
    if is_inside == Some(true) {
        return Err(Usage(format!("{} is inside {}; name a directory elsewhere", into.display(), dir.display())).into());
    }
    Ok(())
}

/// Takes back the directory that was made to find out that it is not needed.
fn forget(into: &Path, was_there: bool) {
    if !was_there {
        // One that is not empty stays.
        let _ = std::fs::remove_dir(into);
    }
}

fn print(report: &RepairReport) -> anyhow::Result<()> {
    report.loss.print()?;
    output::line(&format!(
        "kept: {} records in {} commits, {} topics, {} queue groups, {} idempotency keys; {} written to {}",
        report.records,
        report.commits,
        report.topics,
        report.groups_known,
        report.keys,
        size::show(report.bytes_written),
        report.into
    ))?;
    match report.state_from_checkpoint {
        true => output::line("topics, groups and offsets: as of the last checkpoint, and what the good log behind it tells")?,
        false => {
            output::line("topics, groups and offsets: what the good log tells; acks and commits that stood in lost log are forgotten")?
        }
    }
    for topic in &report.made_topics {
        output::line(&format!("topic {topic} was made for records whose own topic is lost"))?;
    }
    match report.keys_forgotten {
        Some(0) => {}
        Some(count) => output::line(&format!("{count} idempotency keys are forgotten: publishing those records again stores them"))?,
        None => output::line("idempotency keys of lost records are forgotten: publishing those records again stores them")?,
    }
    output::line(&format!(
        "done. {} was not changed. Next: onelog check {}, then onelog serve --data {}",
        report.from, report.into, report.into
    ))
}
