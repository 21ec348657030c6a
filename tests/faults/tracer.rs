//! Faults by number: `strace` runs the program and lets its Nth call of a kind fail, or kills it there.
//!
//! `strace` counts the calls of each thread apart: the first thread that gets to N is the one that is hit.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Every call by which the store changes a disk.
pub const CALLS: &[&str] = &["pwritev", "pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "unlink", "mkdir", "openat"];

/// One place to fail at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub call: &'static str,
    pub number: usize,
}

/// The program under a tracer that writes the calls to `log` and injects a fault (such as `signal=KILL`) at a point. A fault
/// that ends with `+` stays from there on.
pub fn traced(log: &Path, fault: Option<(&Point, &str)>) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-s", "0", "-o"]).arg(log);
    strace.args(["-e", &format!("trace={}", CALLS.join(","))]);
    if let Some((Point { call, number }, fault)) = fault {
        let (fault, onwards) = fault.strip_suffix('+').map_or((fault, ""), |fault| (fault, "+"));
        strace.args(["-e", &format!("inject={call}:{fault}:when={number}{onwards}")]);
    }
    strace.arg(env!("CARGO_BIN_EXE_onelog"));
    crate::support::without_settings(&mut strace);
    strace
}

/// All points of a run that went well. Opening the libraries comes before the program and is none of them.
pub fn points(log: &Path) -> Vec<Point> {
    let log = std::fs::read_to_string(log).unwrap();
    let mut counts: BTreeMap<(&str, &'static str), usize> = BTreeMap::new();
    let mut libraries = 0;
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some(call) = CALLS.iter().find(|call| rest.trim_start().starts_with(&format!("{call}("))) else { continue };
        let count = counts.entry((thread, call)).or_default();
        *count += 1;
        if *call == "openat" && (rest.contains("\"/lib") || rest.contains("\"/etc") || rest.contains("\"/proc")) {
            libraries = libraries.max(*count);
        }
    }
    let most = |call: &str| counts.iter().filter(|((_, counted), _)| *counted == call).map(|(_, count)| *count).max().unwrap_or(0);
    let of = |call: &&'static str| {
        let first = if *call == "openat" { libraries + 1 } else { 1 };
        let call = *call;
        (first..=most(call)).map(move |number| Point { call, number })
    };
    CALLS.iter().flat_map(of).collect()
}

/// Some of the points, spread over all of them: as many as `ONELOG_FAULT_POINTS` says, which may be `all`, else `usual`.
pub fn some(points: &[Point], usual: usize, seed: u64) -> Vec<Point> {
    let wanted = match std::env::var("ONELOG_FAULT_POINTS").as_deref() {
        Ok("all") => points.len(),
        Ok(number) => number.parse().expect("ONELOG_FAULT_POINTS is a number or `all`"),
        Err(_) => usual,
    };
    let wanted = wanted.clamp(1, points.len());
    let shift = usize::try_from(seed).unwrap() % points.len();
    (0..wanted).map(|at| points[(at * points.len() / wanted + shift) % points.len()].clone()).collect()
}

/// The seed of a run: `ONELOG_FAULT_SEED`, else one that is always the same.
pub fn seed() -> u64 {
    std::env::var("ONELOG_FAULT_SEED").map_or(1, |seed| seed.parse().expect("ONELOG_FAULT_SEED is a number"))
}
