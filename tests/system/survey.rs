//! A survey platform's hundred sessions: every event reaches its consumer in the order of its key, though one consumer
//! dies with its hands full.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use crate::api::{Api, PATIENT_MS};
use crate::machine::{self, Need};
use crate::publishers::{Place, place};
use crate::support::Server;
use crate::workload::{self, Line};

const GROUP: &str = "analytics";
/// Records of each partition, as Kafka clients place these keys.
const GOLDEN: [(&str, [i64; 3]); 3] =
    [("runtime.sessions", [74, 60, 66]), ("runtime.answers", [296, 240, 264]), ("runtime.quota", [299, 199, 202])];

#[test]
fn a_hundred_sessions_arrive_in_order_though_a_consumer_dies_with_ten_leases() {
    if !machine::has(&[Need::Python]) {
        return;
    }
    let data = machine::scratch();
    let server = Server::on(data.path());
    let mut api = Api::to(&server);
    let lines = workload::lines("W1real", 100);
    assert_eq!(lines.len(), 1_700);
    publish(&mut api, &lines);
    for (topic, golden) in GOLDEN {
        let partitions = api.get(&format!("/v1/topics/{topic}"))["partitions"].clone();
        let stored: Vec<i64> = partitions.as_array().unwrap().iter().map(|one| one["high_watermark"].as_i64().unwrap()).collect();
        assert_eq!(stored, golden, "{topic}");
        // An hour: only leases taken for less run out here.
        api.create_group(topic, GROUP, &json!({"ordering": "key", "visibility_ms": 3_600_000}));
    }

    let held = take_ten_and_die(&server);
    let mut consumer = Consumer::new(&lines);
    for (topic, golden) in GOLDEN {
        consumer.drain(&mut api, topic, golden.iter().sum());
    }
    assert_eq!(consumer.again, held, "what the dead consumer held comes again, and nothing else");
    let expected = [("answer.upserted", 800), ("quota.reserved", 700), ("session.completed", 100), ("session.started", 100)];
    assert_eq!(consumer.of_type, expected.map(|(name, count)| (name.to_owned(), count)).into());
    assert_eq!(consumer.of_type.values().sum::<u64>(), 1_700);
    server.stop();
}

/// Events that happened together go together, whatever their topics.
fn publish(api: &mut Api, lines: &[Line]) {
    for (topic, _) in GOLDEN {
        api.create_topic(topic, 3);
    }
    for some in lines.chunks(170) {
        let record = |line: &Line| json!({"topic": line.topic, "key": line.key, "headers": line.headers, "value": line.value});
        api.post("/v1/batch", &some.iter().map(record).collect());
    }
}

/// A consumer that is gone before it settles anything.
fn take_ten_and_die(server: &Server) -> HashSet<Place> {
    let mut doomed = Api::to(server);
    let request = json!({"member": "doomed", "max": 10, "visibility_ms": 500});
    let deliveries = doomed.receive("runtime.answers", GROUP, &request);
    assert!(deliveries.iter().all(|delivery| delivery["attempt"] == 1));
    let held: HashSet<Place> = deliveries.iter().map(place).collect();
    assert_eq!(held.len(), 10);
    held
}

struct Consumer {
    /// Where each event stands in what was published.
    order: HashMap<String, usize>,
    /// The last event of each key.
    last: HashMap<(String, String), usize>,
    of_type: BTreeMap<String, u64>,
    /// Places in `runtime.answers` that came a second time.
    again: HashSet<Place>,
}

impl Consumer {
    fn new(lines: &[Line]) -> Self {
        let order = lines.iter().enumerate().map(|(at, line)| (line.value.clone(), at)).collect();
        Self { order, last: HashMap::new(), of_type: BTreeMap::new(), again: HashSet::new() }
    }

    fn drain(&mut self, api: &mut Api, topic: &str, total: i64) {
        let mut done = 0;
        while done < total {
            let deliveries = api.receive(topic, GROUP, &json!({"member": "survivor", "max": 100, "wait_ms": PATIENT_MS}));
            deliveries.iter().for_each(|delivery| self.take(topic, delivery));
            api.ack(topic, GROUP, &deliveries);
            done += i64::try_from(deliveries.len()).unwrap();
        }
        assert_eq!(done, total, "each once");
        assert_eq!(api.group(topic, GROUP)["counts"]["acked"], total);
    }

    fn take(&mut self, topic: &str, delivery: &Value) {
        let order = self.order[delivery["value"].as_str().unwrap()];
        let key = (topic.to_owned(), delivery["key"].as_str().unwrap().to_owned());
        let before = self.last.insert(key, order);
        assert!(before.is_none_or(|before| before < order), "an older event of the key after a newer one: {delivery}");
        *self.of_type.entry(delivery["headers"]["eventType"].as_str().unwrap().to_owned()).or_default() += 1;
        match delivery["attempt"].as_u64() {
            Some(1) => {}
            Some(2) if topic == "runtime.answers" => drop(self.again.insert(place(delivery))),
            _ => panic!("nobody else failed: {delivery}"),
        }
    }
}
