//! Recordings and the cuts made of them: records a load, then cuts the power at many points of it, some cuts within the recovery
//! from a cut. One seed decides everything about a recording but the order in which threads ran, and everything about a cut.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result, ensure};
use onelog::client::Client;
use onelog::{Broker, SystemClock};
use serde::{Deserialize, Serialize};

use crate::broken::{self, Fault};
use crate::check::{After, Wrong, check, config};
use crate::device::Device;
use crate::disk::STYLES;
use crate::disk_process::Command;
use crate::door::Door;
use crate::history::{History, Number, Place, Seen};
use crate::load::{self, Notes, Shape, note_log_starts};
use crate::random::Random;

pub const SEGMENT_BYTES: u64 = 4 << 20;
const PUBLISHES: u64 = 500;
/// Records the checks publish themselves have numbers from here on.
const CHECK_SERIAL: u64 = 1 << 40;
/// A cut is followed by one in the recovery from it, that often; and that one again.
const DEEPER: (u64, u64) = (1, 8);
const DEPTH_MAX: usize = 3;

/// What was recorded, apart from the disk's operations.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recording {
    pub seed: u64,
    pub history: History,
    /// Operations of the disk.
    pub ops: u64,
    pub over_http: bool,
    /// Records large enough to fill segments, and retention.
    pub large: bool,
}

/// How things are recorded.
pub struct Means {
    pub device: Device,
    /// The built program, for recordings over HTTP.
    pub program: Option<PathBuf>,
    pub fault: Option<Fault>,
    /// With bad blocks: a flush that fails does so once, and the next claims that all is well.
    pub lying_flushes: bool,
}

/// Numbers of a run, for people.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    pub recordings: u64,
    pub cuts: u64,
    /// Of those, how many had anything to lose.
    pub with_pending: u64,
    pub cuts_in_recovery: u64,
    pub sectors_pending: u64,
    pub publishes: u64,
    pub settles: u64,
    /// Checks of an acknowledged record or ack after a cut.
    pub oks_checked: u64,
    pub bad_cuts: u64,
}

/// One cut of a recording, chosen by its number.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    pub number: u64,
    at: u64,
}

impl Means {
    /// Records a load from an empty disk to its end, or to where the program is killed.
    pub fn record(&mut self, seed: u64, over_http: bool) -> Result<Recording> {
        self.device.fresh()?;
        self.device.mount()?;
        let dir = self.device.mount_point().join("data");
        let mut random = Random::of(seed, 1);
        let shape = Shape { seed, publishes: PUBLISHES / 2, large: random.chance(1, 4) && !over_http, may_fail: false };
        let notes = Notes::new(History::default(), self.device.counter());
        let serials = Arc::new(AtomicU64::new(1));
        for part in 0..2 {
            let shape = Shape { seed: seed ^ part, ..shape };
            let clean = random.chance(1, 2);
            match &self.program {
                Some(program) if over_http => record_http(program, &dir, &notes, shape, &serials, clean)?,
                _ => record_here(&dir, self.fault, &notes, shape, &serials, clean)?,
            }
        }
        self.device.unmount()?;
        let recording = Recording { seed, history: notes.take(), ops: self.device.ops(), over_http, large: shape.large };
        ensure!(!recording.history.oks().is_empty(), "nothing was answered");
        Ok(recording)
    }

    /// The cuts with those numbers, in the order of the recording.
    pub fn choose(&mut self, recording: &Recording, numbers: impl Iterator<Item = u64>) -> Result<Vec<Chosen>> {
        let flushes = self.device.tell(&Command::Flushes { life: 0 })?.flushes;
        let oks = recording.history.oks();
        let mut chosen: Vec<Chosen> = numbers
            .map(|number| Chosen { number, at: place_of(&mut cut_random(recording, number), recording.ops, &oks, &flushes) })
            .collect();
        chosen.sort_unstable_by_key(|chosen| (chosen.at, chosen.number));
        Ok(chosen)
    }

    /// Cuts the power of the recording and looks at what is left; then, now and then, cuts within that.
    pub fn cut(&mut self, recording: &Recording, places: &HashMap<Number, Place>, chosen: Chosen, totals: &mut Totals) -> Result<Wrong> {
        let mut random = cut_random(recording, chosen.number);
        random.next();
        let mut cutting = Cutting { life: 0, at: chosen.at, known: recording.history.before_cut(chosen.at), places: places.clone() };
        totals.cuts += 1;
        loop {
            let (notes, wrong) = self.cut_once(&cutting, &mut random, totals)?;
            let ops = self.device.ops();
            let lived = notes.take();
            if !wrong.0.is_empty() || cutting.life + 1 >= DEPTH_MAX || ops == 0 || !random.chance(DEEPER.0, DEEPER.1) {
                let place = |what: String| format!("{} cut(s) deep, at operation {}: {what}", cutting.life + 1, cutting.at);
                return Ok(Wrong(wrong.0.into_iter().map(place).collect()));
            }
            totals.cuts_in_recovery += 1;
            let life = cutting.life + 1;
            let flushes = self.device.tell(&Command::Flushes { life })?.flushes;
            let later: Vec<Seen> =
                lived.oks().into_iter().chain(lived.served.iter().map(|served| served.2)).filter(|seen| *seen > 0).collect();
            let at = place_of(&mut random, ops, &later, &flushes);
            cutting = Cutting { life, at, known: lived.before_cut(at), places: lived.places() };
        }
    }

    fn cut_once(&mut self, cutting: &Cutting, random: &mut Random, totals: &mut Totals) -> Result<(Notes, Wrong)> {
        let (style, seed) = (random.index(STYLES.len()), random.next());
        let at = usize::try_from(cutting.at)?;
        let left = self.device.tell(&Command::Cut { life: cutting.life, at, style, seed })?;
        totals.with_pending += u64::from(left.pending > 0);
        totals.sectors_pending += left.pending as u64;
        totals.oks_checked += cutting.known.oks().len() as u64;
        let context = || format!("cut at operation {} of life {}, {:?}", cutting.at, cutting.life, STYLES[style]);
        self.device.mount().with_context(context)?;
        let notes = Notes::new(cutting.known.clone(), self.device.counter());
        let mut after = After {
            known: &cutting.known,
            places: &cutting.places,
            io: broken::disk(self.fault),
            segment_bytes: SEGMENT_BYTES,
            random: Random::new(random.next()),
            serial: CHECK_SERIAL + cutting.life as u64 * 1_000,
        };
        let dir = self.device.mount_point().join("data");
        let wrong = one_thread()?.block_on(check(&dir, &mut after, &notes));
        drop(after);
        self.device.unmount().with_context(context)?;
        Ok((notes, wrong))
    }
}

/// One cut in a chain of them.
struct Cutting {
    /// Which life of the disk it ends.
    life: usize,
    at: u64,
    known: History,
    places: HashMap<Number, Place>,
}

fn cut_random(recording: &Recording, number: u64) -> Random {
    Random::of(recording.seed, 1_000 + number)
}

/// Where to cut: anywhere, at the moment of an ok, or with as much as possible not yet flushed.
fn place_of(random: &mut Random, ops: u64, oks: &[Seen], flushes: &[usize]) -> u64 {
    match random.below(100) {
        0..40 if !oks.is_empty() => oks[random.index(oks.len())],
        40..65 if !flushes.is_empty() => flushes[random.index(flushes.len())] as u64,
        _ => random.below(ops + 1),
    }
}

/// A runtime whose end is the end of all that ran in it: nothing stays open on the disk.
pub fn one_thread() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// The load on the crate's broker in this process. Closed at the end if `clean`, else dropped as by a crash.
fn record_here(dir: &Path, fault: Option<Fault>, notes: &Notes, shape: Shape, serials: &Arc<AtomicU64>, clean: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let config = config(broken::disk(fault), SEGMENT_BYTES, Arc::new(SystemClock::default()));
        let broker = Broker::open_with(dir, config).await?;
        load::run(&Door::Crate(broker.clone()), notes, shape, serials).await?;
        note_log_starts(&broker, notes)?;
        if clean {
            broker.close().await?;
        }
        Ok(())
    })
}

/// The load on the built program. Stopped with SIGTERM if `clean`, else killed.
fn record_http(program: &Path, dir: &Path, notes: &Notes, shape: Shape, serials: &Arc<AtomicU64>, clean: bool) -> Result<()> {
    let (server, url) = serve(program, dir)?;
    let client = Client::new(&url)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(load::run(&Door::Http(client), notes, shape, serials));
    if clean {
        rustix::process::kill_process(pid(&server.0)?, rustix::process::Signal::TERM)?;
        let mut server = server;
        let ended = server.0.wait()?;
        ensure!(ended.success(), "the program ended with {ended}");
    }
    done.map(drop)
}

/// Killed and waited for when dropped.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pid(child: &Child) -> Result<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("a process without a number")
}

/// The program on a free port, and its address.
fn serve(program: &Path, dir: &Path) -> Result<(Served, String)> {
    use std::io::{BufRead, BufReader};
    let mut command = Program::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ONELOG_")) {
        command.env_remove(name);
    }
    command.args(["serve", "--http", "127.0.0.1:0", "--data"]).arg(dir);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut served = Served(child.with_context(|| format!("starting {}", program.display()))?);
    let mut ready = String::new();
    BufReader::new(served.0.stdout.take().context("no pipe")?).read_line(&mut ready)?;
    let address = ready.split_whitespace().find_map(|word| word.strip_prefix("http=")).context("the program did not get ready")?;
    Ok((served, format!("http://{address}")))
}

/// Keeps a recording, so that its cuts can be made again: the disk's operations and, beside them, the history.
pub fn keep(device: &mut Device, recording: &Recording, at: &Path) -> Result<()> {
    device.tell(&Command::Save { recording: at.with_extension("disk") })?;
    std::fs::write(at.with_extension("json"), serde_json::to_vec(recording)?).with_context(|| format!("writing {}", at.display()))
}

/// Takes up a kept recording.
pub fn take_up(device: &mut Device, at: &Path) -> Result<Recording> {
    device.tell(&Command::Load { recording: at.with_extension("disk") })?;
    let path = at.with_extension("json");
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}
