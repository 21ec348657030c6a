//! The disk as this process uses it: a loop device over the disk's file, an ext4 on it, mounted when asked for.
//!
//! Everything lives in a mount namespace of its own and the loop device lets go of its file by itself: however this process
//! ends, nothing stays mounted. Between two disks the block device's pages are dropped, and it is made sure that the next
//! mount really read the disk.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command as Program, Stdio};
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::Advice;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::counter::Counter;
use crate::disk_process::{Answer, Command};
use crate::fuse::FILE_NAME;

/// The name under which the program calls itself for the disk's process.
pub const DISK_PROCESS: &str = "disk-process";
const DISK_BYTES: u64 = 64 << 20;
/// The same file system each time.
const UUID: &str = "6f6e656c-6f67-4000-8000-706f77657221";

pub struct Device {
    disk: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    ops: Counter,
    /// Kept open: the loop device goes when the last one lets go of it.
    loop_file: File,
    loop_path: PathBuf,
    image: PathBuf,
    mount_point: PathBuf,
    fuse_point: PathBuf,
    mounted: bool,
}

/// Goes into a mount namespace of its own. Before the first thread is started.
pub fn leave_the_machines_mounts() -> Result<()> {
    // SAFETY: file descriptors stay shared; only what is mounted where becomes our own.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.context("a mount namespace")?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("private mounts")
}

impl Device {
    /// A disk with a fresh ext4, not mounted. `dir` is for its files.
    pub fn start(dir: &Path) -> Result<Self> {
        let path = |name: &str| dir.join(name);
        let (image, fuse_point, mount_point) = (path("image"), path("fuse"), path("mount"));
        make_ext4(&image)?;
        std::fs::create_dir(&fuse_point)?;
        std::fs::create_dir(&mount_point)?;
        let counter = path("counter");
        let ops = Counter::open(&counter)?;
        let mut disk = Program::new(std::env::current_exe()?)
            .arg(DISK_PROCESS)
            .args([&fuse_point, &image, &counter])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the disk's process")?;
        let commands = disk.stdin.take().context("no pipe")?;
        let mut answers = BufReader::new(disk.stdout.take().context("no pipe")?);
        read_answer(&mut answers)?;
        let loop_path = attach(&fuse_point.join(FILE_NAME))?;
        let loop_file = File::open(&loop_path)?;
        // Held open here, so this lets it go by itself when we end, and not before.
        run("losetup", &["--detach", text(&loop_path)?])?;
        Ok(Self { disk, commands: Some(commands), answers, ops, loop_file, loop_path, image, mount_point, fuse_point, mounted: false })
    }

    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Operations of the disk's present life so far.
    pub fn ops(&self) -> u64 {
        self.ops.get().load(SeqCst)
    }

    pub fn counter(&self) -> Counter {
        self.ops
    }

    pub fn tell(&mut self, command: &Command) -> Result<Answer> {
        let to = self.commands.as_mut().context("the disk's process was told to end")?;
        serde_json::to_writer(&mut *to, command)?;
        to.write_all(b"\n")?;
        to.flush()?;
        let answer = read_answer(&mut self.answers)?;
        match answer.refused {
            Some(why) => bail!("the disk's process: {why}"),
            None => Ok(answer),
        }
    }

    /// A disk just formatted.
    pub fn fresh(&mut self) -> Result<()> {
        ensure!(!self.mounted, "still mounted");
        let image = self.image.clone();
        self.tell(&Command::Fresh { image }).map(drop)
    }

    /// Mounts the ext4, which replays its journal.
    pub fn mount(&mut self) -> Result<()> {
        ensure!(!self.mounted, "mounted already");
        rustix::fs::fadvise(&self.loop_file, 0, None, Advice::DontNeed)?;
        rustix::mount::mount(&self.loop_path, &self.mount_point, "ext4", MountFlags::empty(), None).context("mounting the ext4")?;
        self.mounted = true;
        ensure!(self.tell(&Command::State)?.start_was_read, "the mount did not look at the disk: the kernel remembers an earlier one");
        Ok(())
    }

    /// Nothing may be open on it any more.
    pub fn unmount(&mut self) -> Result<()> {
        rustix::mount::unmount(&self.mount_point, UnmountFlags::empty()).context("unmounting the ext4")?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What does not go now goes with the namespace.
        let _ = rustix::mount::unmount(&self.mount_point, UnmountFlags::DETACH);
        self.commands = None;
        let _ = rustix::mount::unmount(&self.fuse_point, UnmountFlags::DETACH);
        let _ = self.disk.wait();
    }
}

fn read_answer(answers: &mut impl BufRead) -> Result<Answer> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    ensure!(!line.is_empty(), "the disk's process ended");
    Ok(serde_json::from_str(&line)?)
}

/// With a journal, its tables written: nothing is done later in the background.
fn make_ext4(image: &Path) -> Result<()> {
    File::create(image)?.set_len(DISK_BYTES)?;
    let extended = format!("lazy_itable_init=0,lazy_journal_init=0,nodiscard,hash_seed={UUID}");
    let arguments = ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=4", "-U", UUID, "-E", &extended];
    run("mkfs.ext4", &[&arguments[..], &[text(image)?]].concat()).map(drop)
}

fn attach(file: &Path) -> Result<PathBuf> {
    let printed = run("losetup", &["--find", "--show", "--direct-io=on", text(file)?])?;
    let path = PathBuf::from(printed.trim());
    let name = path.file_name().context("losetup printed no device")?;
    let direct = std::fs::read_to_string(Path::new("/sys/block").join(name).join("loop/dio")).context("whether I/O is direct")?;
    ensure!(direct.trim() == "1", "the loop device does not use direct I/O");
    Ok(path)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let ended = Program::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    ensure!(ended.status.success(), "{program}: {}", String::from_utf8_lossy(&ended.stderr));
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}
