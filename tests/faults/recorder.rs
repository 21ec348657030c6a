//! A client that writes down what it asked and what it was told. Any number of them share one [`Recorder`].
//!
//! Decides nothing: what is asked comes from the caller, what it means is the checker's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Api;
use crate::client::Answer;
use crate::history::{
    Counts, Delivered, Event, History, Lease, Moment, Partition, Place, Placed, Readout, Rules, Sent, Settled, Stored, Told, Verb, What,
};

pub const TOPIC: &str = "orders";
pub const GROUP: &str = "crew";
pub const PARTITIONS: u64 = 2;

/// The shared record of what happened, and the one clock of all clients.
pub struct Recorder {
    started: Instant,
    turns: AtomicU64,
    events: std::sync::Mutex<Vec<Event>>,
}

impl Recorder {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), turns: AtomicU64::new(0), events: std::sync::Mutex::default() })
    }

    pub fn now(&self) -> Moment {
        Moment { turn: self.turns.fetch_add(1, SeqCst), at: self.started.elapsed() }
    }

    pub fn note(&self, began: Moment, what: What) {
        let event = Event { began, ended: self.now(), what };
        self.events.lock().unwrap().push(event);
    }

    /// Something that happened to the broker.
    pub fn happened(&self, what: What) {
        self.note(self.now(), what);
    }

    /// Batches whose outcome nobody knows, for publishing them again.
    pub fn unknown_batches(&self) -> Vec<Vec<Sent>> {
        let events = self.events.lock().unwrap();
        let batches = events.iter().filter_map(|event| match &event.what {
            What::Publish { batch, told } if told.is_unknown() => Some(batch.clone()),
            _ => None,
        });
        batches.collect()
    }

    /// All of it, beside what the broker holds now.
    pub fn history(&self, rules: Rules, readout: Readout) -> History {
        let mut events = self.events.lock().unwrap().clone();
        events.sort_by_key(|event| event.ended.turn);
        History { rules, events, readout }
    }
}

/// A client on a connection of its own.
pub struct Seat {
    recorder: Arc<Recorder>,
    pub api: Api,
}

impl Seat {
    pub fn at(recorder: &Arc<Recorder>, address: &str) -> Self {
        Self { recorder: Arc::clone(recorder), api: Api::at(address) }
    }

    pub fn publish(&mut self, batch: &[Sent]) -> Told<Vec<Placed>> {
        let began = self.recorder.now();
        let told = self.ask(&format!("/v1/topics/{TOPIC}/records"), &publish_body(batch), |answer| all(&answer["records"], placed));
        self.recorder.note(began, What::Publish { batch: batch.to_vec(), told: told.clone() });
        told
    }

    pub fn receive(&mut self, max: usize, wait: Duration, visibility: Duration) -> Told<Vec<Delivered>> {
        let began = self.recorder.now();
        let told = self.ask(&verb_path("receive"), &receive_body(max, wait, visibility), |answer| all(&answer["deliveries"], delivered));
        self.recorder.note(began, What::Receive { visibility, told: told.clone() });
        told
    }

    pub fn settle(&mut self, verb: Verb, leases: &[Lease]) -> Told<Vec<Settled>> {
        let began = self.recorder.now();
        let (path, body) = settle_request(verb, leases);
        let told = self.ask(&path, &body, |answer| all(&answer["outcomes"], settled));
        self.recorder.note(began, What::Settle { verb, leases: leases.to_vec(), told: told.clone() });
        told
    }

    pub fn read(&mut self, partition: u64, offset: i64) -> Told<Vec<Stored>> {
        let began = self.recorder.now();
        let path = format!("/v1/topics/{TOPIC}/partitions/{partition}/records?offset={offset}&max_records=100&max_bytes=1000000");
        let told = told(self.api.try_send("GET", &path, b""), |answer| all(&answer["records"], stored));
        self.recorder.note(began, What::Read { told: told.clone() });
        told
    }

    /// While nobody else is at work.
    pub fn counts(&mut self) {
        let began = self.recorder.now();
        if let Some(counts) = try_counts(&mut self.api) {
            self.recorder.note(began, What::Counts(counts));
        }
    }

    fn ask<T>(&mut self, path: &str, body: &Value, good: impl Fn(&Value) -> T) -> Told<T> {
        told(self.api.try_send("POST", path, body.to_string().as_bytes()), good)
    }
}

pub fn publish_body(batch: &[Sent]) -> Value {
    batch.iter().map(|sent| json!({"id": sent.id, "key": sent.key, "value": sent.value})).collect()
}

pub fn receive_body(max: usize, wait: Duration, visibility: Duration) -> Value {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
    json!({"max": max, "wait_ms": ms(wait), "visibility_ms": ms(visibility)})
}

pub fn settle_request(verb: Verb, leases: &[Lease]) -> (String, Value) {
    let names: Vec<String> = leases.iter().map(|lease| format!("{}-{}-{}", lease.place.0, lease.place.1, lease.token)).collect();
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
    let failures = |more: Value| -> Value {
        let failure = |name: &String| {
            let mut failure = more.clone();
            failure["lease"] = name.as_str().into();
            failure
        };
        json!({"failures": names.iter().map(failure).collect::<Vec<_>>()})
    };
    match verb {
        Verb::Ack => (verb_path("ack"), json!({"leases": names})),
        Verb::Nack(delay) => (verb_path("nack"), failures(json!({"reason": "not now", "delay_ms": ms(delay)}))),
        Verb::Bury => (verb_path("nack"), failures(json!({"reason": "never", "permanent": true}))),
        Verb::Extend(by) => (verb_path("extend"), json!({"leases": names, "visibility_ms": ms(by)})),
        Verb::Release => (verb_path("release"), json!({"leases": names})),
    }
}

pub fn verb_path(verb: &str) -> String {
    format!("/v1/topics/{TOPIC}/groups/{GROUP}/{verb}")
}

/// A refusal of every lease of a request is told lease by lease too.
pub fn told<T>(answer: std::io::Result<Answer>, good: impl Fn(&Value) -> T) -> Told<T> {
    match answer {
        Err(_) => Told::Nothing,
        Ok(answer) if (200..300).contains(&answer.status) || answer.json()["outcomes"].is_array() => Told::Ok(good(&answer.json())),
        Ok(answer) => Told::Refused(answer.problem()),
    }
}

pub fn all<T>(list: &Value, one: impl Fn(&Value) -> T) -> Vec<T> {
    list.as_array().unwrap_or_else(|| panic!("no list: {list}")).iter().map(one).collect()
}

pub fn place(value: &Value) -> Place {
    (value["partition"].as_u64().unwrap(), value["offset"].as_i64().unwrap())
}

pub fn placed(value: &Value) -> Placed {
    Placed { place: place(value), duplicate: value["duplicate"] == true }
}

pub fn stored(value: &Value) -> Stored {
    let text = |field: &str| value[field].as_str().unwrap_or_else(|| panic!("no {field}: {value}")).to_owned();
    Stored { place: place(value), key: text("key"), value: text("value") }
}

pub fn delivered(value: &Value) -> Delivered {
    let token = value["lease"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
    Delivered { lease: Lease { place: place(value), token }, attempt: value["attempt"].as_u64().unwrap(), record: stored(value) }
}

pub fn settled(value: &Value) -> Settled {
    match (value["result"].as_str(), value["error"].as_str()) {
        (Some("dead_lettered"), _) => Settled::DeadLettered,
        (Some(_), _) => Settled::Done,
        (None, code) => Settled::Refused(code.unwrap_or_else(|| panic!("no outcome: {value}")).to_owned()),
    }
}

/// What the broker holds now; nobody is at work.
pub fn read_out(api: &mut Api) -> Readout {
    let marks = api.get(&format!("/v1/topics/{TOPIC}"))["partitions"].clone();
    let partition = |mark: &Value| {
        let number = mark["partition"].as_u64().unwrap();
        let (log_start, high_watermark) = (mark["log_start"].as_i64().unwrap(), mark["high_watermark"].as_i64().unwrap());
        Partition { log_start, high_watermark, records: api.partition_from(TOPIC, number, log_start).iter().map(stored).collect() }
    };
    let partitions = all(&marks, |mark| mark.clone()).iter().map(partition).collect();
    let dead = api.dead_letters(TOPIC);
    let origin = |letter: &Value| (letter["origin_partition"].as_u64().unwrap(), letter["origin_offset"].as_i64().unwrap());
    Readout { partitions, counts: try_counts(api).unwrap(), dead: dead.iter().map(origin).collect() }
}

/// `None` when the broker does not answer, or has no such group yet.
fn try_counts(api: &mut Api) -> Option<Counts> {
    let topic = api.try_send("GET", &format!("/v1/topics/{TOPIC}"), b"").ok().filter(|answer| answer.status == 200)?;
    let marks = all(&topic.json()["partitions"], |mark| mark["high_watermark"].as_u64().unwrap());
    let group = api.try_send("GET", &format!("/v1/topics/{TOPIC}/groups/{GROUP}"), b"").ok().filter(|answer| answer.status == 200)?;
    let counts = group.json()["counts"].clone();
    let of = |state: &str| counts[state].as_u64().unwrap();
    Some(Counts {
        ready: of("ready"),
        leased: of("leased"),
        deferred: of("deferred"),
        acked: of("acked"),
        dead: of("dead"),
        skipped: of("skipped"),
        all: marks.iter().sum(),
    })
}
