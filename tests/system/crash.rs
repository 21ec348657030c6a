//! SIGKILL under load, again and again: nothing acknowledged is lost, nothing is told twice in two ways.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::api::{Api, PATIENT_MS};
use crate::machine::scratch;
use crate::publishers::{Ledger, PARTITIONS, Place, Publishers, TOPIC, Told, place, send};
use crate::support::{Server, onelog, run, serve};

const ROUNDS: u64 = 20;
const GROUP: &str = "billing";
/// Small segments and checkpoints, so that crashes fall between all kinds of writes.
const SMALL: &[&str] = &["--segment-bytes", "4MiB", "--checkpoint-bytes", "1MiB"];

#[test]
fn nothing_acknowledged_is_lost_over_twenty_kills() {
    let data = scratch();
    let dir = data.path();
    let mut ledger = Ledger::default();
    let mut leases = Leases::default();
    let server = Server::with(dir, SMALL);
    let mut api = Api::to(&server);
    api.create_topic(TOPIC, PARTITIONS);
    // Short leases: what a killed member held comes again soon. No limit of attempts: each kill may cost one.
    api.create_group(TOPIC, GROUP, &json!({"visibility_ms": 1_000, "max_deliveries": 0}));
    server.stop();

    for round in 0..ROUNDS {
        let server = Server::with(dir, SMALL);
        let publishers = Publishers::start(server.address(), &format!("round{round}"), 4);
        let worker = Worker::start(server.address());
        let oks = random_below(200);
        publishers.wait_for(oks, &mut ledger);
        server.kill();
        assert_eq!(publishers.finish(&mut ledger), [], "round {round}: a kill is no refusal");
        leases.enter(worker);

        if round % 2 == 1 {
            std::fs::remove_file(dir.join("index.redb")).unwrap();
        }
        let check = run(&["check", dir.to_str().unwrap()]);
        assert_eq!(check.code, 0, "round {round}: {check:?}");
        if round % 3 == 0 {
            kill_while_opening(dir);
        }
        look_at_everything(dir, &mut ledger, round);
    }
    finish(dir, &mut ledger, leases);
}

/// A start that does not get far: recovery itself is cut short.
fn kill_while_opening(dir: &std::path::Path) {
    let mut child = serve(onelog(), dir, SMALL).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

fn look_at_everything(dir: &std::path::Path, ledger: &mut Ledger, round: u64) {
    let server = Server::with(dir, SMALL);
    let mut api = Api::to(&server);
    ledger.verify(&mut api);
    // Ids that were acknowledged are still known, those of the first round as well as those just written.
    let known: Vec<String> = ledger.acked.keys().take(20).cloned().collect();
    for id in known {
        let before = ledger.acked[&id];
        let Told::Ok(places) = send(&mut api, vec![id.clone()]) else { panic!("round {round}: {id} was not taken again") };
        assert_eq!(places, [(id, before)], "round {round}: a repeat is answered with the first place");
    }
    // Whoever got no answer asks again, and now knows.
    for ids in ledger.take_unknown() {
        ledger.enter(send(&mut api, ids));
    }
    ledger.verify(&mut api);
    server.kill();
}

/// Everything that is not acked yet comes, what is acked never does.
fn finish(dir: &std::path::Path, ledger: &mut Ledger, mut leases: Leases) {
    let server = Server::with(dir, SMALL);
    let mut api = Api::to(&server);
    ledger.verify(&mut api);
    let total = ledger.acked.len();
    // By the broker's count: a member that was killed between an ack and its answer does not know what is settled.
    while api.group(TOPIC, GROUP)["counts"]["acked"] != total {
        let (deliveries, acked) = receive_and_ack(&mut api, 500).expect("the server is up");
        leases.delivered(&deliveries);
        leases.acked.extend(acked);
    }
    let counts = api.group(TOPIC, GROUP)["counts"].clone();
    assert_eq!((&counts["ready"], &counts["leased"], &counts["dead"]), (&json!(0), &json!(0), &json!(0)), "{counts}");
    server.stop();
    assert_eq!(run(&["check", dir.to_str().unwrap()]).code, 0);
}

/// What a member was given, and what it was told is settled.
type Shift = (Vec<Value>, Vec<Place>);

/// A member of the queue group that receives and acks until the server is gone.
struct Worker {
    shifts: Receiver<Shift>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start(address: &str) -> Self {
        let (tell, shifts) = mpsc::channel();
        let mut api = Api::at(address);
        let thread = std::thread::spawn(move || {
            while let Some(shift) = receive_and_ack(&mut api, 7) {
                tell.send(shift).unwrap();
            }
        });
        Self { shifts, thread }
    }
}

/// Receives and acks; `None` when the server does not answer the receive.
fn receive_and_ack(api: &mut Api, max: usize) -> Option<Shift> {
    let path = |verb: &str| format!("/v1/topics/{TOPIC}/groups/{GROUP}/{verb}");
    let request = json!({"max": max, "wait_ms": PATIENT_MS}).to_string();
    let received = api.try_send("POST", &path("receive"), request.as_bytes()).ok()?;
    assert_eq!(received.status, 200, "{}", received.text());
    let deliveries = received.json()["deliveries"].as_array().unwrap().clone();
    if deliveries.is_empty() {
        return Some((deliveries, Vec::new()));
    }
    let leases: Vec<&Value> = deliveries.iter().map(|delivery| &delivery["lease"]).collect();
    let answer = api.try_send("POST", &path("ack"), json!({"leases": leases}).to_string().as_bytes());
    let acked = match answer {
        Ok(answer) if answer.status == 200 => {
            let outcomes = answer.json()["outcomes"].as_array().unwrap().clone();
            deliveries
                .iter()
                .zip(outcomes)
                .filter(|(_, outcome)| outcome["result"] == "acked")
                .map(|(delivery, _)| place(delivery))
                .collect()
        }
        // On a slow machine the leases ran out: nothing is settled.
        Ok(answer) => {
            assert_eq!(answer.problem(), "lease_stale");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    Some((deliveries, acked))
}

#[derive(Default)]
struct Leases {
    acked: HashSet<Place>,
    token: u64,
}

impl Leases {
    /// Enters what a worker saw until its server was killed.
    fn enter(&mut self, worker: Worker) {
        for (deliveries, acked) in &worker.shifts {
            self.delivered(&deliveries);
            self.acked.extend(acked);
        }
        worker.thread.join().unwrap();
    }

    /// Acked is for ever, and a lease is never named as one before it, over restarts too.
    fn delivered(&mut self, deliveries: &[Value]) {
        let tokens: Vec<u64> = deliveries.iter().map(token).collect();
        for (delivery, token) in deliveries.iter().zip(&tokens) {
            assert!(!self.acked.contains(&place(delivery)), "acked, and here it is again: {delivery}");
            assert!(*token > self.token, "token {token} after {}", self.token);
        }
        self.token = tokens.into_iter().max().unwrap_or(self.token);
    }
}

fn token(delivery: &Value) -> u64 {
    delivery["lease"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap()
}

/// Different in each run: the moments of a crash are not to be the same few for ever.
fn random_below(limit: u64) -> usize {
    usize::try_from(RandomState::new().hash_one(limit) % limit).unwrap()
}
