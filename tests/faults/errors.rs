//! Calls that fail, one at each place: the answer is clear, nothing is acknowledged that might be lost, a restart mends it.

use std::path::Path;
use std::sync::Arc;

use crate::history::{POISONED, RULES, Told, What};
use crate::machine::{self, Need, scratch};
use crate::recorder::{Recorder, Seat};
use crate::support::{Ended, Server, serve};
use crate::tracer::{Point, points, seed, some, traced};
use crate::work::{SMALL, Work, finish, set_up};

const STEPS: usize = 50;
const USUAL_POINTS: usize = 9;
/// What a client may be told while a call fails.
const CODES: &[&str] = &[POISONED, "disk_full"];

#[test]
fn an_io_error_at_any_call() {
    fail_at_points("error=EIO", 0);
}

#[test]
fn io_errors_from_any_call_on() {
    fail_at_points("error=EIO+", 5);
}

#[test]
fn no_space_at_any_call() {
    fail_at_points("error=ENOSPC", 10);
}

fn fail_at_points(fault: &str, shift: u64) {
    if !machine::has(&[Need::Strace]) {
        return;
    }
    let log = scratch();
    let log = log.path().join("calls");
    let all = {
        let (data, recorder) = (scratch(), Recorder::new());
        let met = work_with(&recorder, data.path(), &log, None, "no fault");
        assert_eq!(met, Met::Nothing);
        points(&log)
    };
    let chosen = some(&all, USUAL_POINTS, seed() + shift);
    let mut met = Vec::new();
    for point in &chosen {
        let (data, recorder) = (scratch(), Recorder::new());
        let what = format!("{fault} at {point:?}, seed {}", seed());
        met.push(work_with(&recorder, data.path(), &log, Some((point, fault)), &what));
        finish(&recorder, data.path(), RULES, &what);
    }
    let of = |kind: Met| met.iter().filter(|met| **met == kind).count();
    let (refused, failed, nothing) = (of(Met::NoStart), of(Met::Failed), of(Met::Nothing));
    eprintln!("{fault}: of {} points {refused} prevented the start, {failed} stopped acknowledging, {nothing} harmed nobody", all.len());
    // A checkpoint that fails harms nobody; a log that fails does.
    assert!(refused + failed > 0, "{fault}: no call of {chosen:?} failed");
}

/// What a fault did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    NoStart,
    Failed,
    Nothing,
}

fn work_with(recorder: &Arc<Recorder>, dir: &Path, log: &Path, fault: Option<(&Point, &str)>, what: &str) -> Met {
    let server = match Server::try_spawn(serve(traced(log, fault), dir, SMALL)) {
        Ok(server) => server,
        Err(ended) => {
            assert_names_the_fault(&ended, what);
            recorder.happened(What::Crash);
            return Met::NoStart;
        }
    };
    recorder.happened(What::Open);
    let mut work = Work::new(Seat::at(recorder, server.address()), "work", seed());
    set_up(&mut work.seat.api).unwrap();
    let refusals = work.go_on(STEPS);
    // Where the topic could not be made there is no topic to ask for.
    let clear = |code: &&String| CODES.contains(&code.as_str()) || (fault.is_some() && code.ends_with("_not_found"));
    let unclear: Vec<&String> = refusals.iter().filter(|code| !clear(code)).collect();
    assert!(unclear.is_empty(), "{what}: {unclear:?}");
    let met = look_at_health(&mut work, &refusals, what);
    assert!(!server.said().contains("panicked"), "{what}: {}", server.said());
    server.kill();
    recorder.happened(What::Crash);
    met
}

/// `failed` is said exactly when nothing is acknowledged any more.
fn look_at_health(work: &mut Work, refusals: &[String], what: &str) -> Met {
    let health = work.seat.api.send("GET", "/health", b"");
    let failed = health.json()["status"] == "failed";
    assert_eq!(failed, work.seat.api.metric("onelog_storage_failed") == 1.0, "{what}");
    if !failed {
        assert!(!refusals.iter().any(|code| code == POISONED), "{what}: health says {}", health.text());
        return Met::Nothing;
    }
    assert_eq!(health.status, 503, "{what}");
    assert!(health.json()["parts"]["log"]["failure"].as_str().is_some_and(|failure| !failure.is_empty()), "{what}: {}", health.text());
    let told = work.publish();
    assert!(matches!(&told, Told::Refused(code) if code == POISONED || code == "topic_not_found"), "{what}: {told:?} after the failure");
    Met::Failed
}

/// A start that is refused says why, in one line for people.
fn assert_names_the_fault(ended: &Ended, what: &str) {
    assert_eq!(ended.code, 1, "{what}: {ended:?}");
    assert!(!ended.err.contains("panicked"), "{what}: {ended:?}");
    let names = ["os error 5", "os error 28", "Input/output error", "No space left", "disk is full"];
    assert!(names.iter().any(|name| ended.err.contains(name)), "{what}: {ended:?}");
}
