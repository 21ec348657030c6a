//! A wall clock that jumps by ten years, back and forth, while the program runs and while it is down.
//!
//! `libfaketime` moves the wall clock and leaves the monotonic one alone, as an administrator or a bad time server does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Api;
use crate::history::{RULES, Told, Verb, What};
use crate::machine::{self, Need, scratch};
use crate::recorder::{GROUP, PARTITIONS, Recorder, Seat, TOPIC};
use crate::support::{Server, serve, without_settings};
use crate::work::{SMALL, VISIBILITY, Work, finish, record};

const NOW: &str = "+0d";
const TEN_YEARS_BACK: &str = "-3650d";
const TEN_YEARS_ON: &str = "+3650d";
const YEAR_MS: i64 = 365 * 86_400_000;
/// Between two jumps.
const STEPS: usize = 25;
/// A watchdog: several times the interval of retention.
const PATIENCE: Duration = Duration::from_secs(60);

/// A wall clock that is set by hand.
struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// In a directory of the test's.
    fn new(dir: &Path) -> Self {
        let clock = Self { file: dir.join("wall-clock") };
        clock.set(NOW);
        clock
    }

    /// Whole or not at all: the program reads it at each look at the clock.
    fn set(&self, to: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, to).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    fn serve(&self, data: &Path) -> Server {
        let mut program = Command::new(env!("CARGO_BIN_EXE_onelog"));
        without_settings(&mut program);
        program.env("LD_PRELOAD", machine::faketime().unwrap()).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        program.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Server::spawn(serve(program, data, SMALL))
    }
}

#[test]
fn p13_nothing_is_early_or_lost_when_the_clock_jumps_by_years() {
    if !machine::has(&[Need::Faketime]) {
        return;
    }
    let (data, at, recorder) = (scratch(), scratch(), Recorder::new());
    let clock = WallClock::new(at.path());
    for (round, jumps) in [[NOW, TEN_YEARS_BACK], [TEN_YEARS_ON, NOW], [TEN_YEARS_BACK, TEN_YEARS_ON]].into_iter().enumerate() {
        clock.set(jumps[0]);
        let server = clock.serve(data.path());
        recorder.happened(What::Open);
        let mut work = Work::new(Seat::at(&recorder, server.address()), &format!("round{round}"), round as u64);
        set_up(&mut work.seat.api);
        assert_eq!(work.go_on(STEPS), Vec::<String>::new());
        let (delayed, held) = delay_and_hold(&mut work.seat, round);
        clock.set(jumps[1]);
        assert_is_off_by(&mut work.seat.api, jumps[1]);
        assert_eq!(work.go_on(STEPS), Vec::<String>::new());
        let early = work.seat.receive(1_000, Duration::ZERO, VISIBILITY).ok().unwrap().clone();
        assert!(early.iter().all(|delivered| ![delayed, held].contains(&delivered.lease.place)), "{early:?}");
        // Nothing is in flight: whatever was asked was answered.
        server.kill();
        recorder.happened(What::Crash);
    }
    finish(&recorder, data.path(), RULES, "clock jumps");
}

/// Retention by time would rightly take what is ten years old, dead letters too.
fn set_up(api: &mut Api) {
    for name in [TOPIC.to_owned(), format!("{TOPIC}.dlq")] {
        let topic = json!({"name": name, "partitions": PARTITIONS, "retention_ms": null});
        let answer = api.send("POST", "/v1/topics", topic.to_string().as_bytes());
        assert!([201, 409].contains(&answer.status), "{}", answer.text());
    }
    let group = json!({"ordering": "key", "max_deliveries": 0});
    let answer = api.send("PUT", &format!("/v1/topics/{TOPIC}/groups/{GROUP}"), group.to_string().as_bytes());
    assert!(answer.status < 500, "{}", answer.text());
}

/// One record is due much later, another leased for as long; where they are.
fn delay_and_hold(seat: &mut Seat, round: usize) -> ((u64, i64), (u64, i64)) {
    const LONG: Duration = Duration::from_secs(6);
    let name = |what: &str| format!("{what}{round}");
    let batch = [record(name("delayed"), 1_000 + round as u64, 1), record(name("held"), 2_000 + round as u64, 1)];
    let places: Vec<_> = seat.publish(&batch).ok().unwrap().iter().map(|placed| placed.place).collect();
    let deliveries = seat.receive(1_000, Duration::ZERO, LONG).ok().unwrap().clone();
    for delivered in &deliveries {
        let lease = [delivered.lease];
        match delivered.lease.place {
            place if place == places[0] => seat.settle(Verb::Nack(LONG), &lease),
            place if place == places[1] => continue,
            _ => seat.settle(Verb::Release, &lease),
        };
    }
    assert!(places.iter().all(|place| deliveries.iter().any(|delivered| delivered.lease.place == *place)), "{deliveries:?}");
    (places[0], places[1])
}

/// The program sees the jump: a record without a time of its own says what time it is.
fn assert_is_off_by(api: &mut Api, jump: &str) {
    if api.send("GET", "/v1/topics/what-time-is-it", b"").status == 404 {
        api.post("/v1/topics", &json!({"name": "what-time-is-it", "retention_ms": null}));
    }
    api.publish("what-time-is-it", &json!({"value": jump}));
    let says = api.partition("what-time-is-it", 0).last().unwrap()["timestamp"].as_i64().unwrap();
    let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let years = (says - i64::try_from(real).unwrap() + YEAR_MS / 2).div_euclid(YEAR_MS);
    assert_eq!(
        years,
        match jump {
            TEN_YEARS_BACK => -10,
            TEN_YEARS_ON => 10,
            _ => 0,
        }
    );
}

#[test]
fn p14_a_key_is_known_though_the_clock_went_back() {
    if !machine::has(&[Need::Faketime]) {
        return;
    }
    let (data, at, recorder) = (scratch(), scratch(), Recorder::new());
    let clock = WallClock::new(at.path());
    let batch = |name: &str| [record(format!("{name}.0"), 0, 10), record(format!("{name}.1"), 1, 10)];
    let first = |seat: &mut Seat, name: &str| assert!(seat.publish(&batch(name)).ok().unwrap().iter().all(|placed| !placed.duplicate));
    let again = |seat: &mut Seat, name: &str| {
        let told = seat.publish(&batch(name));
        assert!(told.ok().unwrap().iter().all(|placed| placed.duplicate), "{name}: {told:?}");
    };
    clock.set(TEN_YEARS_ON);
    let mut server = clock.serve(data.path());
    recorder.happened(What::Open);
    let mut seat = Seat::at(&recorder, server.address());
    set_up(&mut seat.api);
    first(&mut seat, "future");
    again(&mut seat, "future");
    clock.set(NOW);
    again(&mut seat, "future");
    first(&mut seat, "present");
    clock.set(TEN_YEARS_BACK);
    first(&mut seat, "past");
    // Known by the memory of one process, then by what the log and a checkpoint tell the next ones.
    for end in [Server::kill as fn(Server), |server| drop(server.stop())] {
        for name in ["future", "present", "past"] {
            again(&mut seat, name);
        }
        end(server);
        recorder.happened(What::Crash);
        server = clock.serve(data.path());
        recorder.happened(What::Open);
        seat = Seat::at(&recorder, server.address());
    }
    for name in ["future", "present", "past"] {
        again(&mut seat, name);
    }
    server.kill();
    recorder.happened(What::Crash);
    finish(&recorder, data.path(), RULES, "keys and clock jumps");
}

#[test]
fn p25_retention_takes_nothing_early_though_the_clock_went_back() {
    if !machine::has(&[Need::Faketime]) {
        return;
    }
    let (data, at, recorder) = (scratch(), scratch(), Recorder::new());
    let clock = WallClock::new(at.path());
    let server = clock.serve(data.path());
    let mut seat = Seat::at(&recorder, server.address());
    // The usual seven days.
    seat.api.create_topic(TOPIC, u32::try_from(PARTITIONS).unwrap());
    for (round, jump) in [NOW, TEN_YEARS_BACK, NOW].into_iter().enumerate() {
        clock.set(jump);
        if round > 0 {
            wait_for_retention(&mut seat.api, &format!("sentinel{round}"));
        }
        assert_eq!(seat.api.records(TOPIC).len(), 4 * round, "at {jump}");
        for key in 0..4 {
            assert!(matches!(seat.publish(&[record(format!("{round}.{key}"), key, 40_000)]), Told::Ok(_)));
        }
    }
    server.stop();
}

/// Retention has run when it has taken a record of 1970.
fn wait_for_retention(api: &mut Api, topic: &str) {
    api.post("/v1/topics", &json!({"name": topic, "retention_ms": 1_000}));
    api.publish(topic, &json!({"value": "old", "timestamp": 0}));
    let patience = Instant::now() + PATIENCE;
    let marks = |api: &mut Api| -> Value { api.get(&format!("/v1/topics/{topic}"))["partitions"][0]["log_start"].clone() };
    while marks(api) == 0 {
        assert!(Instant::now() < patience, "no retention");
        // A long poll that finds nothing takes as long as it may.
        api.get(&format!("/v1/topics/{topic}/partitions/0/records?offset=1&wait_ms=500"));
    }
}
