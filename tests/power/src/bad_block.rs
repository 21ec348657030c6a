//! A block that takes no writes, a write that fails once, flushes that fail from some moment on: onelog must not acknowledge anything after it heard of it,
//! and after a restart it may serve only what is on the disk, whatever the page cache still shows.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use onelog::{Broker, SystemClock};
use rustix::io::Errno;

use crate::broken::{self, Watch};
use crate::campaign::{Means, SEGMENT_BYTES, one_thread};
use crate::check::{After, Wrong, check, config};
use crate::disk_process::Command;
use crate::door::Door;
use crate::history::{History, Number, TOPICS};
use crate::load::{self, Notes, Shape};
use crate::random::Random;

/// Writes and flushes of a run, about: the failure comes somewhere among them.
const WRITES: u64 = 160;
const FLUSHES: u64 = 80;
const PUBLISHES: u64 = 150;
/// Tries after the failure was noticed.
const TRIES: u64 = 5;

/// What became of the runs.
#[derive(Debug, Default)]
pub struct Blocks {
    pub runs: u64,
    /// The disk answered a failure.
    hit: u64,
    /// A call of onelog was answered with it.
    told: u64,
    /// The file system would not be written any more.
    read_only: u64,
    reopened: u64,
    /// The failure took so much of the file system's own that it could not be mounted again.
    unmountable: u64,
    pub bad: u64,
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, hit, told, read_only, reopened, unmountable, bad } = self;
        write!(
            f,
            "{runs} runs with a bad block or failing flushes: the disk failed in {hit}, onelog was told in {told}, the file system went \
             read-only in {read_only}, could not be mounted again in {unmountable}; {reopened} reopened on the same mount; {bad} in which \
             anything was wrong"
        )
    }
}

pub fn run(means: &mut Means, seed: u64, runs: u64, until_bad: bool) -> Result<Blocks> {
    let mut blocks = Blocks::default();
    while blocks.runs < runs && !(until_bad && blocks.bad > 0) {
        let number = blocks.runs;
        blocks.runs += 1;
        let wrong = one(means, &mut Random::of(seed, 5_000 + number), &mut blocks).with_context(|| format!("bad block {number}"))?;
        if !wrong.0.is_empty() {
            blocks.bad += 1;
            println!("bad block {number} of seed {seed}:");
            wrong.0.iter().for_each(|what| println!("  {what}"));
        }
    }
    Ok(blocks)
}

fn one(means: &mut Means, random: &mut Random, blocks: &mut Blocks) -> Result<Wrong> {
    means.device.fresh()?;
    means.device.mount()?;
    let dir = means.device.mount_point().join("data");
    let watch = Watch::default();
    let notes = Notes::new(History::default(), means.device.counter()).watching(watch.clone());
    let mut story = String::new();
    let mut wrong = load_until_it_fails(means, &dir, &notes, &watch, random, &mut story)?;
    let failed = means.device.tell(&Command::State)?.failures > 0;
    blocks.hit += u64::from(failed);
    blocks.told += u64::from(watch.failed().is_some());
    let healed = random.chance(3, 4);
    if healed {
        means.device.tell(&Command::Heal)?;
    }
    // The same mount: the page cache is as the failure left it.
    let writable = is_writable(means.device.mount_point());
    blocks.read_only += u64::from(!writable);
    let lived = notes.take();
    let (served, told) = look(means, &dir, &lived, random)?;
    let refused = told.0.iter().any(|what| what.contains("cannot be opened") || what.contains("was refused"));
    // A disk that still fails lets nobody begin.
    let may_refuse = !healed || (failed && !writable);
    if !(refused && may_refuse) {
        wrong.0.extend(told.0.into_iter().map(|what| format!("reopened on the same mount: {what}")));
    }
    blocks.reopened += u64::from(!refused);
    // Then the power goes, at the very moment records had been read.
    let at = served.served.iter().map(|(_, _, seen)| *seen).max().unwrap_or_else(|| notes.now());
    means.device.unmount()?;
    let (style, seed) = (random.index(crate::disk::STYLES.len()), random.next());
    means.device.tell(&Command::Cut { life: 0, at: usize::try_from(at)?, style, seed })?;
    match means.device.mount() {
        // Ext4's own loss: a checksum of its own is wrong. What it holds for us cannot be asked.
        Err(why) if matches!(why.downcast_ref(), Some(&Errno::BADMSG | &Errno::UCLEAN)) => {
            blocks.unmountable += 1;
            return Ok(wrong);
        }
        mounted => mounted?,
    }
    let (_, told) = look(means, &dir, &served.before_cut(at), random)?;
    wrong.0.extend(told.0.into_iter().map(|what| format!("after the power cut: {what}")));
    means.device.unmount()?;
    if !wrong.0.is_empty() {
        wrong.0.insert(0, story);
    }
    Ok(wrong)
}

/// Runs a load into the failure. What began after the disk had told onelog may not be answered ok.
fn load_until_it_fails(
    means: &mut Means,
    dir: &Path,
    notes: &Notes,
    watch: &Watch,
    random: &mut Random,
    story: &mut String,
) -> Result<Wrong> {
    let fault = means.fault;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let io = broken::disk_watched(fault, watch.clone());
        let broker = Broker::open_with(dir, config(io, SEGMENT_BYTES, Arc::new(SystemClock::default()))).await?;
        let door = Door::Crate(broker.clone());
        let shape = Shape { seed: random.next(), publishes: PUBLISHES, large: false, may_fail: true };
        notes.make_topics(&door, &shape).await?;
        let armed = arm(means, random)?;
        let why = load::run(&door, notes, shape, &Arc::new(AtomicU64::new(1))).await?;
        for try_ in 0..TRIES {
            // Refused or not: if the disk has failed, an ok is noted.
            let number = Number::new((1 << 41) + try_, usize::try_from(try_)? % TOPICS.len(), true, false);
            let _ = notes.publish(&door, vec![number]).await;
        }
        *story = format!(
            "{armed}; onelog was told at {:?}; {}; the store says {:?}",
            watch.failed(),
            why.as_deref().unwrap_or("no request failed"),
            broker.storage_stats().failure
        );
        anyhow::Ok(())
    })?;
    Ok(Wrong(notes.acknowledged_late().into_iter().take(TRIES as usize).collect()))
}

/// Answers with what will fail, for people.
fn arm(means: &mut Means, random: &mut Random) -> Result<String> {
    let lying = means.lying_flushes;
    let command = match random.below(3) {
        0 => Command::FailFlush { after: random.below(FLUSHES), stays: !lying, seed: random.next() },
        kind => Command::FailWrite { after: random.below(WRITES), stays: kind == 1, seed: random.next() },
    };
    means.device.tell(&command)?;
    Ok(format!("{command:?}"))
}

/// Opens and checks; answers with the history after that.
fn look(means: &mut Means, dir: &Path, lived: &History, random: &mut Random) -> Result<(History, Wrong)> {
    let known = lived.before_cut(u64::MAX);
    let places = lived.places();
    let notes = Notes::new(lived.clone(), means.device.counter());
    let serial = (1 << 42) + random.below(1 << 40);
    let mut after = After {
        known: &known,
        places: &places,
        io: broken::disk(means.fault),
        segment_bytes: SEGMENT_BYTES,
        random: Random::new(random.next()),
        serial,
    };
    let wrong = one_thread()?.block_on(check(dir, &mut after, &notes));
    drop(after);
    Ok((notes.take(), wrong))
}

/// Whether the file system still takes a file.
fn is_writable(mount_point: &Path) -> bool {
    let path = mount_point.join("probe");
    let written = std::fs::File::create(&path).and_then(|file| file.sync_all());
    let removed = std::fs::remove_file(&path);
    written.is_ok() && removed.is_ok()
}
