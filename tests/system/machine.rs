//! What a test needs of the machine beyond cargo: a test that does not get it says so by name and ends.
//!
//! `tests/run` installs what is missing and sets `ONELOG_SKIPPED_FILE`; it fails when anything was skipped after all.

use std::io::Write;
use std::process::{Command, Stdio};

/// Whether all of `needs` is there; if not, tells that the running test is skipped.
pub fn has(needs: &[Need]) -> bool {
    let missing: Vec<&str> = needs.iter().filter(|need| !need.is_met()).map(|need| need.name()).collect();
    if missing.is_empty() {
        return true;
    }
    let thread = std::thread::current();
    let line = format!("skipped: needs {}: {}\n", missing.join(", "), thread.name().unwrap_or("a test"));
    // The handle, not `eprint!`: the latter is kept from view while the test passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os("ONELOG_SKIPPED_FILE") {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        opened.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    }
    false
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Python,
    /// A tracer that may trace.
    Strace,
    /// A library that moves the wall clock of a program.
    #[allow(dead_code, reason = "not every test program moves clocks")]
    Faketime,
    /// Root, `mkfs.ext4` and a loop device that can be mounted.
    LoopMount,
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Strace => "strace",
            Self::Faketime => "faketime",
            Self::LoopMount => "root and loop mounts",
        }
    }

    fn is_met(self) -> bool {
        match self {
            Self::Python => runs("python3", &["--version"]),
            Self::Strace => runs("strace", &["-f", "-e", "trace=fdatasync", "true"]),
            Self::Faketime => faketime().is_some(),
            Self::LoopMount => LoopDisk::new(2).is_some(),
        }
    }
}

/// Where Debian puts `libfaketime`.
pub fn faketime() -> Option<std::path::PathBuf> {
    let machines = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    machines.map(|machine| machine.path().join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A small ext4 of its own; unmounted and gone when dropped.
pub struct LoopDisk {
    /// Holds the image and the place it is mounted at.
    at: tempfile::TempDir,
}

impl LoopDisk {
    pub fn new(mebibytes: u64) -> Option<Self> {
        let at = scratch();
        let image = at.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).unwrap();
        std::fs::create_dir(at.path().join("disk")).unwrap();
        let path = |name: &str| at.path().join(name).to_str().unwrap().to_owned();
        let made = runs("mkfs.ext4", &["-q", "-m", "0", &path("image")]);
        (made && runs("mount", &["-o", "loop", &path("image"), &path("disk")])).then(|| Self { at })
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.at.path().join("disk")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Lazily: a process that still looks at it must not keep it for ever.
        runs("umount", &["-l", self.path().to_str().unwrap()]);
    }
}

/// A directory on the disk the build is on: a sync should cost what it costs.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
