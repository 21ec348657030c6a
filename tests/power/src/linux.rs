//! The command line: cuts, proofs, replays, and what is said about them. Exits with 0 when nothing was lost.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::broken::Fault;
use crate::campaign::{Means, Recording, Totals, keep, take_up};
use crate::device::{DISK_PROCESS, Device, leave_the_machines_mounts};
use crate::{bad_block, disk_process};

/// Cuts the power of a real ext4 under onelog and looks for what was acknowledged. Needs root, FUSE and loop devices.
#[derive(Debug, Parser)]
#[command(name = "onelog-power")]
struct Arguments {
    /// Power cuts to make.
    #[arg(long, default_value_t = 200)]
    cuts: u64,
    /// Decides everything but the order in which threads run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Cuts made of one recorded load.
    #[arg(long, default_value_t = 250)]
    cuts_per_recording: u64,
    /// Runs in which a block of the disk, or a flush, fails.
    #[arg(long, default_value_t = 0)]
    bad_blocks: u64,
    /// With `--bad-blocks`: a flush that fails does so once and the next claims that all is well, also to those whose writes the
    /// first one lost. No program can notice all of that: for looking, not for passing.
    #[arg(long)]
    lying_flushes: bool,
    /// The built program; every fifth recording is of it, over HTTP. By default the `onelog` beside this program, if there.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Where recordings are kept in which something was lost.
    #[arg(long, default_value = "target/power-cuts-kept")]
    keep: PathBuf,
    /// Keeps every recording.
    #[arg(long)]
    keep_all: bool,
    /// Takes up a kept recording instead of recording; its name without ending.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// With `--replay`: only this cut.
    #[arg(long, requires = "replay")]
    cut: Option<u64>,
    /// Does something wrong on purpose.
    #[arg(long)]
    fault: Option<Fault>,
    /// Shows that faults are noticed: each in turn must lose something, within `--cuts` and `--bad-blocks`.
    #[arg(long)]
    prove: bool,
}

pub fn run() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let [_, first, mount_point, image, counter] = &arguments[..]
        && first == DISK_PROCESS
    {
        return code(disk_process::run(Path::new(mount_point), Path::new(image), Path::new(counter)).map(|()| true));
    }
    let arguments = Arguments::parse();
    if let Err(why) = leave_the_machines_mounts() {
        return skipped(&format!("root and mounts of its own ({why:#})"));
    }
    for needed in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(needed).exists() {
            return skipped(needed);
        }
    }
    quiet_panics_of_the_index();
    code(if arguments.prove { prove(&arguments) } else { cut(&arguments) })
}

/// redb panics on some files that a failed disk left; onelog catches that and builds the index anew. Not worth a page each time.
fn quiet_panics_of_the_index() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|location| location.file().contains("/redb-")) {
            loud(panic);
        }
    }));
}

fn code(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("onelog-power: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// As the tests say it: a run that counts on this one fails.
fn skipped(needs: &str) -> ExitCode {
    let line = format!("skipped: needs {needs}: power cuts\n");
    eprint!("{line}");
    if let Some(file) = std::env::var_os("ONELOG_SKIPPED_FILE") {
        use std::io::Write;
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        if let Err(why) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("onelog-power: {why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Everything a run needs; the directory goes last.
struct Bench {
    means: Means,
    _dir: tempfile::TempDir,
}

fn bench(arguments: &Arguments, fault: Option<Fault>) -> Result<Bench> {
    let dir = tempfile::Builder::new().prefix("onelog-power-").tempdir()?;
    let beside = std::env::current_exe()?.with_file_name("onelog");
    let program = match &arguments.program {
        Some(program) => Some(program.clone()),
        None if beside.exists() => Some(beside),
        None => None,
    };
    // What lies comes in through the crate: the built program cannot be made to.
    let program = program.filter(|_| fault.is_none());
    Ok(Bench { means: Means { device: Device::start(dir.path())?, program, fault, lying_flushes: arguments.lying_flushes }, _dir: dir })
}

fn cut(arguments: &Arguments) -> Result<bool> {
    let mut bench = bench(arguments, arguments.fault)?;
    if let Some(kept) = &arguments.replay {
        return replay(arguments, &mut bench.means, kept);
    }
    if bench.means.program.is_none() {
        println!("no built program beside this one (cargo build -p onelog): nothing is recorded over HTTP");
    }
    let totals = if arguments.cuts > 0 { cuts(arguments, &mut bench.means, false)? } else { Totals::default() };
    let blocks = bad_block::run(&mut bench.means, arguments.seed, arguments.bad_blocks, false)?;
    if blocks.runs > 0 {
        println!("{blocks}");
    }
    Ok(totals.bad_cuts == 0 && blocks.bad == 0)
}

/// Makes `--cuts` cuts; with `until_bad`, no more once one lost something.
fn cuts(arguments: &Arguments, means: &mut Means, until_bad: bool) -> Result<Totals> {
    let begun = Instant::now();
    let mut totals = Totals::default();
    while totals.cuts < arguments.cuts && !(until_bad && totals.bad_cuts > 0) {
        let number = totals.recordings;
        let over_http = means.program.is_some() && number % 5 == 1;
        let recording = means.record(arguments.seed.wrapping_mul(1_000_003).wrapping_add(number), over_http)?;
        totals.recordings += 1;
        totals.publishes += recording.history.publishes.iter().filter(|publish| publish.ok.is_some()).count() as u64;
        totals.settles += recording.history.settles.iter().filter(|settle| settle.ok.is_some()).count() as u64;
        let count = arguments.cuts_per_recording.min(arguments.cuts - totals.cuts);
        let bad = cut_recording(means, &recording, 0..count, &mut totals, until_bad)?;
        if (bad.is_some() && !until_bad) || arguments.keep_all {
            std::fs::create_dir_all(&arguments.keep)?;
            let at = arguments.keep.join(format!("recording-{}-{number}", arguments.seed));
            keep(&mut means.device, &recording, &at)?;
            let cut = bad.unwrap_or(0);
            println!("kept; again with: onelog-power --replay {} --cut {cut}", at.display());
        }
        if !until_bad {
            report(&totals, begun, &recording);
        }
    }
    if !until_bad {
        summary(&totals, begun);
    }
    Ok(totals)
}

/// The number of the first cut that lost something.
fn cut_recording(
    means: &mut Means,
    recording: &Recording,
    numbers: impl Iterator<Item = u64>,
    totals: &mut Totals,
    until_bad: bool,
) -> Result<Option<u64>> {
    let places = recording.history.places();
    let mut first = None;
    for chosen in means.choose(recording, numbers)? {
        let wrong = means.cut(recording, &places, chosen, totals).with_context(|| format!("cut {}", chosen.number))?;
        if wrong.0.is_empty() {
            continue;
        }
        totals.bad_cuts += 1;
        first = first.or(Some(chosen.number));
        println!("cut {} of the recording with seed {}:", chosen.number, recording.seed);
        wrong.0.iter().for_each(|what| println!("  {what}"));
        if until_bad {
            break;
        }
    }
    Ok(first)
}

fn report(totals: &Totals, begun: Instant, recording: &Recording) {
    let seconds = begun.elapsed().as_secs_f64();
    let way = match (recording.over_http, recording.large) {
        (true, _) => "over HTTP",
        (false, true) => "in the crate, with retention",
        (false, false) => "in the crate",
    };
    println!(
        "{:6} cuts, {} lost something, {seconds:.0} s ({} operations recorded {way}, {} oks)",
        totals.cuts,
        totals.bad_cuts,
        recording.ops,
        recording.history.oks().len()
    );
}

fn summary(totals: &Totals, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} power cuts, {} of them with unflushed sectors ({} on average), and {} more in the recovery from one, in {seconds:.0} s",
        totals.cuts,
        totals.with_pending,
        totals.sectors_pending / totals.with_pending.max(1),
        totals.cuts_in_recovery
    );
    println!(
        "{} recordings: {} publishes and {} acks and dead letters answered ok; checked {} times after a cut",
        totals.recordings, totals.publishes, totals.settles, totals.oks_checked
    );
    println!("{} cuts in which something acknowledged was lost or anything else was wrong", totals.bad_cuts);
}

fn replay(arguments: &Arguments, means: &mut Means, kept: &Path) -> Result<bool> {
    let recording = take_up(&mut means.device, kept)?;
    let numbers = arguments.cut.map_or(0..arguments.cuts, |cut| cut..cut + 1);
    let mut totals = Totals { recordings: 1, ..Totals::default() };
    let begun = Instant::now();
    cut_recording(means, &recording, numbers, &mut totals, false)?;
    summary(&totals, begun);
    Ok(totals.bad_cuts == 0)
}

/// Each fault must be noticed. One that is not makes the whole harness worth nothing.
fn prove(arguments: &Arguments) -> Result<bool> {
    for fault in [Fault::WithoutSyncs, Fault::EarlyAcks] {
        let mut bench = bench(arguments, Some(fault))?;
        let totals = cuts(arguments, &mut bench.means, true)?;
        if totals.bad_cuts == 0 {
            bail!("{fault:?} was not noticed in {} cuts", totals.cuts);
        }
        println!("{fault:?}: noticed with cut {}", totals.cuts);
    }
    for fault in [Fault::SyncAgain, Fault::UnsyncedRecovery] {
        let mut bench = bench(arguments, Some(fault))?;
        let blocks = bad_block::run(&mut bench.means, arguments.seed, arguments.bad_blocks, true)?;
        if blocks.bad == 0 {
            bail!("{fault:?} was not noticed in {} runs with a bad block", blocks.runs);
        }
        println!("{fault:?}: noticed with bad block {}", blocks.runs);
    }
    Ok(true)
}
