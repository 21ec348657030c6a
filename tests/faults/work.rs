//! Seeded work for a broker: the same seed asks for the same things in the same order. And the end of every test here: what a
//! broker holds is read out and the whole history checked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::api::Api;
use crate::checker::check;
use crate::history::{Delivered, Lease, Rules, Sent, Told, Verb, What};
use crate::recorder::{GROUP, PARTITIONS, Recorder, Seat, TOPIC, read_out};
use crate::support::{Server, run};

/// Small segments and checkpoints, so that a short run has all kinds of writes.
pub const SMALL: &[&str] = &["--segment-bytes", "4MiB", "--checkpoint-bytes", "1MiB"];
/// Short: what a killed member held comes again soon.
pub const VISIBILITY: Duration = Duration::from_millis(300);
/// A long poll that is allowed to take its time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Long polls before a drain is given up.
const DRAIN_TRIES: usize = 200;

/// Numbers that look random and follow from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// The topic and the group; `None` when the broker is gone before they are there. They may be there already.
pub fn set_up(api: &mut Api) -> Option<()> {
    let topic = json!({"name": TOPIC, "partitions": PARTITIONS});
    let group = json!({"ordering": "key", "max_deliveries": 0});
    api.try_send("POST", "/v1/topics", topic.to_string().as_bytes()).ok()?;
    api.try_send("PUT", &format!("/v1/topics/{TOPIC}/groups/{GROUP}"), group.to_string().as_bytes()).ok()?;
    Some(())
}

pub fn record(id: String, key: u64, padding: u64) -> Sent {
    let value = format!("{id} {}", "x".repeat(usize::try_from(padding).unwrap()));
    Sent { id, key: format!("key-{key:04}"), value }
}

/// One client that does a bit of everything.
pub struct Work {
    pub seat: Seat,
    name: String,
    dice: Dice,
    published: u64,
    held: Vec<Delivered>,
    /// Nobody else is at work: counts add up at any moment.
    pub alone: bool,
}

impl Work {
    /// Ids begin with `name`.
    pub fn new(seat: Seat, name: &str, seed: u64) -> Self {
        Self { seat, name: name.to_owned(), dice: Dice::new(seed), published: 0, held: Vec::new(), alone: true }
    }

    /// Works until the broker is gone, `steps` times at most; the refusals.
    pub fn go_on(&mut self, steps: usize) -> Vec<String> {
        let mut refusals = Vec::new();
        for _ in 0..steps {
            match self.step() {
                Told::Ok(()) => {}
                Told::Refused(code) => refusals.push(code),
                Told::Nothing => break,
            }
        }
        refusals
    }

    fn step(&mut self) -> Told<()> {
        match self.dice.below(10) {
            0..=3 => self.publish(),
            4..=5 => self.receive(),
            6..=8 => self.settle(),
            _ => self.look(),
        }
    }

    fn look(&mut self) -> Told<()> {
        if self.alone {
            self.seat.counts();
        }
        let partition = self.dice.below(PARTITIONS);
        without_answer(&self.seat.read(partition, 0))
    }

    pub fn publish(&mut self) -> Told<()> {
        let count = 1 + self.dice.below(3);
        let batch: Vec<Sent> = (0..count).map(|_| self.next_record()).collect();
        without_answer(&self.seat.publish(&batch))
    }

    fn next_record(&mut self) -> Sent {
        self.published += 1;
        // Every eighth is large: segments fill up.
        let padding = if self.published.is_multiple_of(8) { 300_000 + self.dice.below(200_000) } else { self.dice.below(3_000) };
        record(format!("{}.{}", self.name, self.published), self.dice.below(8), padding)
    }

    fn receive(&mut self) -> Told<()> {
        let max = 1 + usize::try_from(self.dice.below(4)).unwrap();
        let told = self.seat.receive(max, Duration::ZERO, VISIBILITY);
        self.held.extend(told.ok().into_iter().flatten().cloned());
        without_answer(&told)
    }

    /// Two of the held leases; some are stale by now.
    fn settle(&mut self) -> Told<()> {
        if self.held.is_empty() {
            return self.receive();
        }
        let verb = match self.dice.below(10) {
            0..=4 => Verb::Ack,
            5..=6 => Verb::Nack(Duration::from_millis(50 + self.dice.below(100))),
            7 => Verb::Extend(2 * VISIBILITY),
            8 => Verb::Bury,
            _ => Verb::Release,
        };
        let some = self.held.len().min(2);
        let leases: Vec<Lease> = match verb {
            Verb::Extend(_) => self.held[..some].iter().map(|delivered| delivered.lease).collect(),
            _ => self.held.drain(..some).map(|delivered| delivered.lease).collect(),
        };
        without_answer(&self.seat.settle(verb, &leases))
    }
}

fn without_answer<T>(told: &Told<T>) -> Told<()> {
    match told {
        Told::Ok(_) => Told::Ok(()),
        Told::Refused(code) => Told::Refused(code.clone()),
        Told::Nothing => Told::Nothing,
    }
}

/// Opens the directory without any fault, publishes again what nobody knows of, works until nothing is left, and checks all.
pub fn finish(recorder: &Arc<Recorder>, dir: &Path, rules: Rules, what: &str) {
    let server = Server::with(dir, SMALL);
    recorder.happened(What::Open);
    finish_on(recorder, &server, rules, what);
    server.kill();
    let check = run(&["check", dir.to_str().unwrap()]);
    assert_eq!(check.code, 0, "{what}: {check:?}");
}

/// The same on a broker that runs.
pub fn finish_on(recorder: &Arc<Recorder>, server: &Server, rules: Rules, what: &str) {
    let mut seat = Seat::at(recorder, server.address());
    set_up(&mut seat.api).unwrap();
    for batch in recorder.unknown_batches() {
        let told = seat.publish(&batch);
        assert!(told.ok().is_some(), "{what}: {told:?}");
    }
    drain(&mut seat, what);
    let history = recorder.history(rules, read_out(&mut seat.api));
    let broken = check(&history);
    let broken: Vec<String> = broken.iter().take(10).map(|broken| format!("{}: {}", broken.promise, broken.how)).collect();
    assert!(broken.is_empty(), "{what}: after {} events\n  {}", history.events.len(), broken.join("\n  "));
}

/// Acks all that comes until the group has nothing left.
fn drain(seat: &mut Seat, what: &str) {
    for _ in 0..DRAIN_TRIES {
        let counts = read_counts(seat);
        if counts == 0 {
            return;
        }
        let told = seat.receive(100, PATIENCE, PATIENCE);
        let deliveries = told.ok().unwrap_or_else(|| panic!("{what}: {told:?}"));
        let leases: Vec<Lease> = deliveries.iter().map(|delivered| delivered.lease).collect();
        if !leases.is_empty() {
            seat.settle(Verb::Ack, &leases);
        }
    }
    panic!("{what}: {} records never come", read_counts(seat));
}

/// What is not settled yet.
fn read_counts(seat: &mut Seat) -> u64 {
    let counts = seat.api.group(TOPIC, GROUP)["counts"].clone();
    ["ready", "leased", "deferred"].iter().map(|state| counts[state].as_u64().unwrap()).sum()
}
