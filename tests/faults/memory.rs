//! 64 MiB of memory and much more than that on its way: many connections, large records, and some readers.
//!
//! Bodies are bounded together, and this is tried here. Answers are bounded one by one only: many readers of large pages at once
//! need more than this.
//!
//! The limit is a memory cgroup of its own, version 1 or 2. Where none can be made (a container without rights to them) the
//! kernel enforces nothing, and the peak of resident memory is held against the same number: that is the part of the limit
//! that a program can be blamed for, since a cgroup also counts cached files, which the kernel takes back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::history::{RULES, Told, What};
use crate::machine::scratch;
use crate::recorder::{PARTITIONS, Recorder, Seat};
use crate::support::{Server, serve, without_settings};
use crate::work::{finish, record, set_up};

const MEMORY_BYTES: u64 = 64 << 20;
/// As a small machine would be set up.
const SMALL_MEMORY: &[&str] = &[
    "--segment-bytes",
    "4MiB",
    "--checkpoint-bytes",
    "1MiB",
    "--cache-bytes",
    "4MiB",
    "--index-cache-bytes",
    "4MiB",
    "--queue-bytes-max",
    "8MiB",
];
const CONNECTIONS: u64 = 32;
/// So many of the connections read and receive too.
const READERS: u64 = 4;
const BATCHES: u64 = 1;
const BATCH_RECORDS: u64 = 2;
const RECORD_BYTES: u64 = 1_000_000;

#[test]
fn p23_large_records_over_many_connections_fit_in_64_mebibytes() {
    let (data, recorder) = (scratch(), Recorder::new());
    let cage = Cage::new();
    let server = Server::spawn(serve(cage.as_ref().map_or_else(free, Cage::program), data.path(), SMALL_MEMORY));
    recorder.happened(What::Open);
    set_up(&mut Seat::at(&recorder, server.address()).api).unwrap();
    let clients: Vec<_> = (0..CONNECTIONS).map(|number| start_client(&recorder, &server, number)).collect();
    let published: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    let peak = peak_bytes(server.pid());
    let cage_says = cage.as_ref().map_or("no cgroup here".to_owned(), Cage::tell);
    eprintln!("{published} batches of {} taken, peak {peak} bytes; {cage_says}", CONNECTIONS * BATCHES);
    assert!(published > 0);
    assert!(peak <= MEMORY_BYTES, "peak {peak}");
    assert_eq!(Seat::at(&recorder, server.address()).api.send("GET", "/health", b"").status, 200);
    server.stop();
    finish(&recorder, data.path(), RULES, "64 MiB");
}

/// Publishes, reads and receives a lot; how many batches were taken. Too much at once is refused, and said so.
fn start_client(recorder: &Arc<Recorder>, server: &Server, number: u64) -> std::thread::JoinHandle<usize> {
    let mut seat = Seat::at(recorder, server.address());
    std::thread::spawn(move || {
        let mut taken = 0;
        for round in 0..BATCHES {
            let name = |at: u64| format!("client{number}.{round}.{at}");
            let batch: Vec<_> = (0..BATCH_RECORDS).map(|at| record(name(at), number, RECORD_BYTES)).collect();
            let told = seat.publish(&batch);
            assert!(matches!(&told, Told::Ok(_)) || told == Told::Refused("overloaded".to_owned()), "{told:?}");
            taken += usize::from(told.ok().is_some());
            if number >= READERS {
                continue;
            }
            let path =
                format!("/v1/topics/{}/partitions/{}/records?offset=0&max_records=1000", crate::recorder::TOPIC, number % PARTITIONS);
            let page = seat.api.try_send("GET", &path, b"").expect("gone");
            assert!(page.status == 200 || page.problem() == "overloaded", "{}", page.status);
            let told = seat.receive(1, Duration::ZERO, Duration::from_millis(500));
            assert!(matches!(&told, Told::Ok(_)) || told == Told::Refused("overloaded".to_owned()), "{told:?}");
        }
        taken
    })
}

fn free() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_onelog"));
    without_settings(&mut program);
    program
}

/// The most the process ever had resident.
fn peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is gone");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A memory cgroup; gone when dropped.
struct Cage {
    dir: PathBuf,
    /// Names of the files that tell the peak and the kills.
    peak: &'static str,
    kills: &'static str,
}

impl Cage {
    fn new() -> Option<Self> {
        let name = format!("onelog-test-{}", std::process::id());
        let old = (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control");
        let new = (Path::new("/sys/fs/cgroup"), "memory.max", "memory.peak", "memory.events");
        [old, new].into_iter().find_map(|(root, limit, peak, kills)| {
            // Version 2 gives a controller to children only when told; a refusal shows in the next step.
            let _ = std::fs::write(root.join("cgroup.subtree_control"), "+memory");
            let dir = root.join(&name);
            std::fs::create_dir(&dir).ok()?;
            let cage = Self { dir, peak, kills };
            // Without the limit it is no cage. Swap, where there is some, would be a way out of it.
            std::fs::metadata(cage.dir.join(limit)).and_then(|_| std::fs::write(cage.dir.join(limit), MEMORY_BYTES.to_string())).ok()?;
            let _ = std::fs::write(cage.dir.join("memory.swap.max"), "0");
            Some(cage)
        })
    }

    /// The program, inside from its first breath.
    fn program(&self) -> Command {
        let mut shell = Command::new("sh");
        without_settings(&mut shell);
        let procs = self.dir.join("cgroup.procs");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs).arg(env!("CARGO_BIN_EXE_onelog"));
        shell
    }

    fn tell(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).unwrap_or_default().trim().replace('\n', ", ");
        format!("cgroup: peak {}, {}", read(self.peak), read(self.kills))
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // The kernel lets go of a process a moment after it ended.
        for _ in 0..10_000 {
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::yield_now();
        }
    }
}
