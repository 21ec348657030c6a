//! The process the disk lives in: serves it through FUSE and takes commands on its standard input, one line each, one line
//! of answer. Ends with its input.
//!
//! A process of its own, because a thread that waits for a disk cannot be killed: were the disk a thread of the same process,
//! killing it would leave both waiting for each other for ever. This way the disk's end fails what waits for it.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use fuser::{Config, MountOption};
use serde::{Deserialize, Serialize};

use crate::counter::Counter;
use crate::disk::{Cut, Disk, Fault, Op, STYLES};
use crate::fuse::{DiskFile, Shared};
use crate::random::Random;

#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// A disk that holds this image and was never used.
    Fresh {
        image: std::path::PathBuf,
    },
    /// A disk with a recorded past.
    Load {
        recording: std::path::PathBuf,
    },
    /// Writes the first life down. The disk is fresh afterwards.
    Save {
        recording: std::path::PathBuf,
    },
    /// Cuts the power; `style` is a place in [`STYLES`].
    Cut {
        life: usize,
        at: usize,
        style: usize,
        seed: u64,
    },
    Flushes {
        life: usize,
    },
    FailWrite {
        after: u64,
        stays: bool,
        seed: u64,
    },
    FailFlush {
        after: u64,
        stays: bool,
        seed: u64,
    },
    Heal,
    /// How many requests failed so far, and whether the first block was read since the last cut.
    State,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    pub refused: Option<String>,
    pub pending: usize,
    pub kept: usize,
    pub flushes: Vec<usize>,
    pub failures: u64,
    pub start_was_read: bool,
}

/// Mounts at `mount_point`, says so with a first answer, and serves until the input ends.
pub fn run(mount_point: &Path, image: &Path, counter: &Path) -> Result<()> {
    let shared = Arc::new(Shared::new(Disk::new(read_image(image)?), Counter::open(counter)?));
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("onelog-power".into()), MountOption::NoAtime];
    let served = fuser::spawn_mount(DiskFile(Arc::clone(&shared)), mount_point, &config).context("mounting with FUSE")?;
    let mut out = std::io::stdout().lock();
    let mut tell = |answer: &Answer| -> Result<()> {
        serde_json::to_writer(&mut out, answer)?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    };
    tell(&Answer::default())?;
    for line in std::io::stdin().lock().lines() {
        let command = serde_json::from_str(&line?)?;
        let answer = obey(&shared, command);
        tell(&answer.unwrap_or_else(|why| Answer { refused: Some(format!("{why:#}")), ..Answer::default() }))?;
    }
    drop(served);
    Ok(())
}

fn obey(shared: &Shared, command: Command) -> Result<Answer> {
    let mut answer = Answer::default();
    match command {
        Command::Fresh { image } => replace(shared, Disk::new(read_image(&image)?)),
        Command::Load { recording } => replace(shared, load(&recording)?),
        Command::Save { recording } => {
            let taken = shared.with(|disk| std::mem::replace(disk, Disk::new(Vec::new())));
            let (image, ops) = taken.into_past();
            save(&recording, &image, &ops)?;
            replace(shared, Disk::with_past(image, ops));
        }
        Command::Cut { life, at, style, seed } => {
            let style = *STYLES.get(style).context("no such style")?;
            let Cut { pending, kept } = shared.with(|disk| disk.cut(life, at, style, &mut Random::new(seed)));
            (answer.pending, answer.kept) = (pending, kept);
        }
        Command::Flushes { life } => answer.flushes = shared.with(|disk| disk.flushes(life)),
        Command::FailWrite { after, stays, seed } => shared.with(|disk| disk.arm(Fault::Write { after, stays }, seed)),
        Command::FailFlush { after, stays, seed } => shared.with(|disk| disk.arm(Fault::Flush { after, stays }, seed)),
        Command::Heal => shared.with(Disk::heal),
        Command::State => (answer.failures, answer.start_was_read) = shared.with(|disk| (disk.failures, disk.start_was_read)),
    }
    Ok(answer)
}

fn replace(shared: &Shared, new: Disk) {
    shared.with(|disk| *disk = new);
}

fn read_image(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// A recording begins with this.
const MAGIC: &[u8; 8] = b"ONEPOWR1";
const KIND_WRITE: u64 = 0;
const KIND_FLUSH: u64 = 1;
/// Blocks of the image that are all zeros are left out.
const BLOCK: usize = 4096;

/// Magic, bytes of the disk; blocks of the image as writes; a flush; the operations. Numbers are little-endian, 64 bits; a
/// write is kind, place, length and bytes.
fn save(path: &Path, image: &[u8], ops: &[Op]) -> Result<()> {
    let mut out = BufWriter::new(File::create(path).with_context(|| format!("creating {}", path.display()))?);
    out.write_all(MAGIC)?;
    put(&mut out, image.len())?;
    let blocks = image.chunks(BLOCK).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    for (number, block) in blocks {
        put_write(&mut out, number * BLOCK, block)?;
    }
    out.write_all(&KIND_FLUSH.to_le_bytes())?;
    for op in ops {
        match op {
            Op::Write { at, bytes } => put_write(&mut out, *at, bytes)?,
            Op::Flush => out.write_all(&KIND_FLUSH.to_le_bytes())?,
        }
    }
    Ok(out.flush()?)
}

fn put(out: &mut impl Write, number: usize) -> Result<()> {
    Ok(out.write_all(&(number as u64).to_le_bytes())?)
}

fn put_write(out: &mut impl Write, at: usize, bytes: &[u8]) -> Result<()> {
    out.write_all(&KIND_WRITE.to_le_bytes())?;
    put(out, at)?;
    put(out, bytes.len())?;
    Ok(out.write_all(bytes)?)
}

fn load(path: &Path) -> Result<Disk> {
    let mut file = BufReader::new(File::open(path).with_context(|| format!("opening {}", path.display()))?);
    let mut magic = [0; 8];
    file.read_exact(&mut magic)?;
    if magic != *MAGIC {
        bail!("{} is no recording", path.display());
    }
    let mut image = vec![0; get(&mut file)?];
    let mut ops: Option<Vec<Op>> = None;
    while !file.fill_buf()?.is_empty() {
        if get(&mut file)? as u64 == KIND_FLUSH {
            match &mut ops {
                // The first flush is the end of the image.
                None => ops = Some(Vec::new()),
                Some(ops) => ops.push(Op::Flush),
            }
            continue;
        }
        let at = get(&mut file)?;
        let mut bytes = vec![0; get(&mut file)?];
        file.read_exact(&mut bytes)?;
        match &mut ops {
            None => image.get_mut(at..at + bytes.len()).context("a block behind the end of the disk")?.copy_from_slice(&bytes),
            Some(ops) => ops.push(Op::Write { at, bytes }),
        }
    }
    Ok(Disk::with_past(image, ops.context("the recording is cut off")?))
}

fn get(file: &mut impl Read) -> Result<usize> {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes)?;
    Ok(usize::try_from(u64::from_le_bytes(bytes))?)
}
