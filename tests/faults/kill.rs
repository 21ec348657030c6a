//! SIGKILL just before the Nth call that changes the disk: while a directory is made, opened, worked on and closed.

use std::path::Path;

use crate::history::{RULES, What};
use crate::machine::{self, Need, scratch};
use crate::recorder::{Recorder, Seat};
use crate::support::{Server, serve};
use crate::tracer::{Point, points, seed, some, traced};
use crate::work::{SMALL, Work, finish, set_up};

const STEPS: usize = 60;
const USUAL_POINTS: usize = 14;

#[test]
fn killed_at_any_call_from_an_empty_directory_on() {
    kill_at_points(|_, _| {});
}

#[test]
fn killed_at_any_call_after_an_earlier_crash() {
    kill_at_points(|recorder, dir| {
        let server = Server::with(dir, SMALL);
        recorder.happened(What::Open);
        let mut work = Work::new(Seat::at(recorder, server.address()), "before", seed() + 1);
        set_up(&mut work.seat.api).unwrap();
        work.go_on(STEPS / 2);
        server.kill();
        recorder.happened(What::Crash);
    });
}

fn kill_at_points(before: impl Fn(&std::sync::Arc<Recorder>, &Path)) {
    if !machine::has(&[Need::Strace]) {
        return;
    }
    let log = scratch();
    let log = log.path().join("calls");
    let all = {
        let (data, recorder) = (scratch(), Recorder::new());
        before(&recorder, data.path());
        assert!(!is_killed(&recorder, data.path(), &log, None), "nothing was to happen");
        finish(&recorder, data.path(), RULES, "no fault");
        points(&log)
    };
    let chosen = some(&all, USUAL_POINTS, seed());
    let mut hits = 0;
    for point in &chosen {
        let (data, recorder) = (scratch(), Recorder::new());
        before(&recorder, data.path());
        hits += usize::from(is_killed(&recorder, data.path(), &log, Some(point)));
        finish(&recorder, data.path(), RULES, &format!("killed at {point:?}, seed {}", seed()));
    }
    eprintln!("{hits} of {} points were reached, of {} in the run", chosen.len(), all.len());
    // Threads take turns as they like: the last calls of a run are not there every time.
    assert!(hits * 2 > chosen.len(), "{hits} of {} points were reached", chosen.len());
}

/// Works under the tracer, then asks the program to end; whether it was killed before.
fn is_killed(recorder: &std::sync::Arc<Recorder>, dir: &Path, log: &Path, point: Option<&Point>) -> bool {
    let started = Server::try_spawn(serve(traced(log, point.map(|point| (point, "signal=KILL"))), dir, SMALL));
    let Ok(server) = started else {
        recorder.happened(What::Crash);
        return true;
    };
    recorder.happened(What::Open);
    let mut work = Work::new(Seat::at(recorder, server.address()), "work", seed());
    if set_up(&mut work.seat.api).is_some() {
        work.go_on(STEPS);
    }
    server.try_signal("TERM");
    let ended = server.end();
    let killed = ended.code != 0;
    if killed {
        assert!(!ended.err.contains("panicked"), "{ended:?}");
        recorder.happened(What::Crash);
    }
    killed
}
