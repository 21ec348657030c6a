//! Publishers that keep a broker busy from several connections, and the ledger of what they were told: it knows what a
//! topic must hold after a crash.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::api::Api;

pub const TOPIC: &str = "orders";
pub const PARTITIONS: u32 = 2;

/// Partition and offset.
pub type Place = (u64, i64);

/// What became of one request.
#[derive(Debug)]
pub enum Told {
    /// Ids of its records and where each went.
    Ok(Vec<(String, Place)>),
    /// Status and code; nothing of it may be stored.
    Refused(Vec<String>, u16, String),
    /// No answer: stored whole, or not at all.
    Nothing(Vec<String>),
}

/// Publishers at work, each on a connection of its own, until they are refused or cut off.
pub struct Publishers {
    told: Receiver<Told>,
    threads: Vec<JoinHandle<()>>,
}

impl Publishers {
    /// Ids begin with `name`.
    pub fn start(address: &str, name: &str, count: usize) -> Self {
        let (tell, told) = mpsc::channel();
        let start_one = |number: usize| {
            let (tell, mut api, name) = (tell.clone(), Api::at(address), format!("{name}.{number}"));
            std::thread::spawn(move || publish(&mut api, &name, &tell))
        };
        Self { told, threads: (0..count).map(start_one).collect() }
    }

    /// Enters answers into the ledger until `count` requests were ok.
    pub fn wait_for(&self, count: usize, ledger: &mut Ledger) {
        let mut oks = 0;
        while oks < count {
            let told = self.told.recv().expect("the publishers gave up");
            oks += usize::from(matches!(told, Told::Ok(_)));
            ledger.enter(told);
        }
    }

    /// Enters what else was answered until the last publisher ended; the refusals.
    pub fn finish(self, ledger: &mut Ledger) -> Vec<(u16, String)> {
        let mut refusals = Vec::new();
        for told in &self.told {
            if let Told::Refused(_, status, code) = &told {
                refusals.push((*status, code.clone()));
            }
            ledger.enter(told);
        }
        for thread in self.threads {
            thread.join().unwrap();
        }
        refusals
    }
}

fn publish(api: &mut Api, name: &str, tell: &Sender<Told>) {
    for number in 0.. {
        // Every third request is two records for two partitions that belong together.
        let ids: Vec<String> = match number % 3 {
            0 => vec![format!("{name}.{number}.left"), format!("{name}.{number}.right")],
            _ => vec![format!("{name}.{number}")],
        };
        let told = send(api, ids);
        let goes_on = matches!(told, Told::Ok(_));
        if tell.send(told).is_err() || !goes_on {
            return;
        }
    }
}

/// Publishes one record per id; with two, one to each partition.
pub fn send(api: &mut Api, ids: Vec<String>) -> Told {
    let both = ids.len() == 2;
    let records: Vec<Value> = ids.iter().enumerate().map(|(at, id)| record(id, both.then_some(at))).collect();
    let path = format!("/v1/topics/{TOPIC}/records");
    match api.try_send("POST", &path, Value::from(records).to_string().as_bytes()) {
        Err(_) => Told::Nothing(ids),
        Ok(answer) if answer.status == 200 => {
            let answer = answer.json();
            let places = answer["records"].as_array().unwrap().iter().map(place);
            Told::Ok(ids.into_iter().zip(places).collect())
        }
        Ok(answer) => Told::Refused(ids, answer.status, answer.problem()),
    }
}

pub fn place(record: &Value) -> Place {
    (record["partition"].as_u64().unwrap(), record["offset"].as_i64().unwrap())
}

fn record(id: &str, partition: Option<usize>) -> Value {
    let mut record = json!({"key": id, "value": value(id), "id": id});
    if let Some(partition) = partition {
        record["partition"] = partition.into();
    }
    record
}

/// Of many lengths, so that commits end everywhere in their sectors and segments fill up.
fn value(id: &str) -> String {
    let length = id.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 6_000;
    format!("{id} {}", "x".repeat(length))
}

/// What the broker promised so far.
#[derive(Default)]
pub struct Ledger {
    pub acked: HashMap<String, Place>,
    /// Ids that must not be there.
    refused: HashSet<String>,
    /// Requests without an answer.
    unknown: Vec<Vec<String>>,
    /// What each place held when it was last looked at.
    seen: BTreeMap<Place, String>,
}

impl Ledger {
    pub fn enter(&mut self, told: Told) {
        match told {
            Told::Ok(places) => self.acked.extend(places),
            Told::Refused(ids, ..) => self.refused.extend(ids),
            Told::Nothing(ids) => self.unknown.push(ids),
        }
    }

    /// Requests without an answer, for publishing them again.
    pub fn take_unknown(&mut self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.unknown)
    }

    /// Holds everything the topic has against everything that was promised.
    pub fn verify(&mut self, api: &mut Api) {
        let mut by_id: HashMap<String, Place> = HashMap::new();
        for partition in 0..u64::from(PARTITIONS) {
            for (offset, record) in (0..).zip(api.partition(TOPIC, partition)) {
                assert_eq!(place(&record), (partition, offset), "offsets have no gaps");
                let id = record["key"].as_str().unwrap();
                assert_eq!(record["value"], value(id), "{partition}@{offset}");
                let before = self.seen.insert((partition, offset), id.to_owned());
                assert!(before.is_none_or(|before| before == id), "{partition}@{offset} changed");
                assert_eq!(by_id.insert(id.to_owned(), (partition, offset)), None, "{id} is stored twice");
            }
        }
        let lost: Vec<_> = self.acked.iter().filter(|(id, place)| by_id.get(*id) != Some(place)).collect();
        assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
        assert!(self.seen.values().all(|id| by_id.contains_key(id)), "what was read once stays");
        assert!(self.refused.iter().all(|id| !by_id.contains_key(id)), "what was refused is not stored");
        for ids in &self.unknown {
            let stored = ids.iter().filter(|id| by_id.contains_key(*id)).count();
            assert!(stored == 0 || stored == ids.len(), "half of a batch is stored: {ids:?}");
        }
        let unknown = self.unknown.iter().flatten().filter(|id| by_id.contains_key(*id)).count();
        assert_eq!(by_id.len(), self.acked.len() + unknown, "records nobody published");
    }
}
