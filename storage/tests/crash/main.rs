//! Crash and recover, thousands of times: `ONELOG_CYCLES=1000000 cargo test -p onelog-storage --test crash --release -- --nocapture`.
//!
//! A failing run prints its seed; `ONELOG_SEED=<seed>` runs that one alone. Seeds that once failed stand in `seeds.txt` beside
//! this file and run first, each time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod machine;
#[path = "../support/mod.rs"]
mod support;
mod world;

use machine::{Tally, run};

/// Power cuts of an ordinary test run.
const CYCLES: u64 = 1_000;

fn number_of(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Names the seed of a run that fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay: ONELOG_SEED={} cargo test -p onelog-storage --test crash what_was_answered; then add it to seeds.txt",
                self.0
            );
        }
    }
}

fn run_one(seed: u64) -> Tally {
    let _replay = Replay(seed);
    run(seed, false).tally
}

#[test]
fn what_was_answered_survives_any_power_cut_also_one_during_recovery() {
    if let Some(seed) = number_of("ONELOG_SEED") {
        println!("{:#?}", run_one(seed));
        return;
    }
    let wanted = number_of("ONELOG_CYCLES").unwrap_or(CYCLES);
    let kept = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#')).map(|line| line.trim().parse().unwrap());
    #[expect(clippy::disallowed_methods, reason = "the number of cycles a second is for people")]
    let begun = std::time::Instant::now();
    let mut tally = Tally::default();
    for seed in kept.chain(1..) {
        tally.add(&run_one(seed));
        if tally.cycles >= wanted {
            break;
        }
    }
    println!("{tally:#?}\n{:.0} cycles a second", tally.cycles as f64 / begun.elapsed().as_secs_f64());
    // A machine that meets nothing shows nothing.
    let met = [
        tally.three_deep,
        tally.repeats,
        tally.conflicts,
        tally.found,
        tally.not_found,
        tally.checkpoints,
        tally.dropped,
        tally.rebuilt,
        tally.faults,
        tally.poisoned,
        tally.index_deleted,
        tally.compared,
    ];
    assert!(met.iter().all(|times| *times > 0), "{tally:?}");
}

#[test]
fn the_same_seed_twice_makes_the_same_calls() {
    for seed in 1..6 {
        let (first, second) = (run(seed, true), run(seed, true));
        let (one, other) = (first.trace.unwrap(), second.trace.unwrap());
        let differs = one.iter().zip(&other).position(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}: {:?} and {:?}", differs.map(|at| &one[at]), differs.map(|at| &other[at]));
        assert_eq!((one.len(), first.tally), (other.len(), second.tally));
        assert!(one.len() > 500, "a run of {} calls", one.len());
    }
    assert_ne!(run(1, true).trace, run(2, true).trace);
}
