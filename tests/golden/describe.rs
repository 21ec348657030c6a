//! Everything a user can see of a broker, as JSON. Asks through the public API only; the last questions publish and receive.

use std::time::Duration;

use bytes::Bytes;
use onelog::{Broker, BrokerError, DeadLetterFilter, FetchRequest, NewRecord, ReceiveRequest, Record};
use serde_json::{Value, json};

pub async fn everything(broker: &Broker) -> Value {
    let mut topics = Vec::new();
    for topic in broker.topics() {
        let mut partitions = Vec::new();
        for partition in &topic.partitions {
            partitions.push(records(broker, &topic.name, partition.partition, partition.log_start, partition.high_watermark).await);
        }
        let letters = broker.dead_letters(&topic.name, &DeadLetterFilter::default(), None, 1_000).await.unwrap();
        let letters: Vec<Value> = letters
            .iter()
            .map(|letter| {
                let origin = format!("{}/{}/{}", letter.origin_topic, letter.origin_partition, letter.origin_offset);
                json!({"origin": origin, "group": letter.group, "reason": letter.reason, "attempts": letter.attempts, "member": letter.member,
                    "first_ms": letter.first_failure_ms, "last_ms": letter.last_failure_ms, "record": record(&letter.record)})
            })
            .collect();
        topics.push(json!({"topic": topic, "records": partitions, "dead_letters": letters}));
    }
    let mut groups = Vec::new();
    for mut group in broker.groups(None).unwrap() {
        group.members.clear();
        groups.push(serde_json::to_value(&group).unwrap());
    }
    let streams: Vec<Value> =
        broker.stream_groups().iter().map(|name| json!({"group": name, "offsets": broker.committed_offsets(name)})).collect();
    json!({"topics": topics, "groups": groups, "streams": streams, "deliveries": deliveries(broker).await, "published": published(broker).await})
}

async fn records(broker: &Broker, topic: &str, partition: u32, from: i64, to: i64) -> Vec<Value> {
    let mut found = Vec::new();
    let mut offset = from;
    while offset < to {
        let request =
            FetchRequest { topic: topic.to_owned(), partition, offset, records_max: 1_000, bytes_max: 1 << 20, wait: Duration::ZERO };
        match broker.fetch(request).await {
            Ok(fetched) => {
                found.extend(fetched.records.iter().map(record));
                offset = fetched.next_offset;
            }
            Err(BrokerError::RecordsLost { from, to, .. }) => {
                found.push(json!({"lost_from": from, "lost_to": to}));
                offset = to;
            }
            Err(error) => panic!("{topic}/{partition} at {offset}: {error}"),
        }
    }
    found
}

fn text(bytes: Option<&Bytes>) -> Value {
    match bytes {
        None => Value::Null,
        Some(bytes) if bytes.len() > 100 && bytes.iter().all(|byte| *byte == 0) => json!({"zeros": bytes.len()}),
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned().into(),
    }
}

fn record(record: &Record) -> Value {
    let headers: Vec<Value> = record.headers.iter().map(|header| json!([*header.name, text(header.value.as_ref())])).collect();
    json!({"offset": record.offset, "timestamp": record.timestamp_ms, "key": text(record.key.as_ref()), "value": text(record.value.as_ref()), "headers": headers})
}

/// What each group is given now, and what it counts as the attempt.
async fn deliveries(broker: &Broker) -> Vec<Value> {
    let mut all = Vec::new();
    for group in broker.groups(None).unwrap() {
        loop {
            let request = ReceiveRequest {
                topic: group.topic.clone(),
                group: group.group.clone(),
                member: "reader".into(),
                records_max: 1_000,
                wait: Duration::ZERO,
                visibility_ms: None,
            };
            let mut given: Vec<_> = broker.receive(request).await.unwrap();
            if given.is_empty() {
                break;
            }
            given.sort_by_key(|delivery| (delivery.lease.partition, delivery.lease.offset));
            let name = format!("{}/{}", group.topic, group.group);
            all.extend(given.iter().map(|delivery| json!([name, delivery.lease.partition, delivery.lease.offset, delivery.attempt])));
        }
    }
    all.sort_by_key(Value::to_string);
    all
}

/// Where the next records go, and which idempotency keys are known.
async fn published(broker: &Broker) -> Vec<Value> {
    let mut all = Vec::new();
    for topic in broker.topics() {
        for partition in &topic.partitions {
            let plain = NewRecord { partition: Some(partition.partition), value: Some("next".into()), ..NewRecord::default() };
            let next = broker.produce(&topic.name, vec![plain]).await.unwrap();
            all.push(json!([topic.name, partition.partition, next[0].offset]));
        }
        for number in 0..4 {
            let id = Bytes::from(format!("id-{number}"));
            let keyed = NewRecord {
                key: Some("k".into()),
                value: Some(format!("value {number}").into()),
                idempotency_key: Some(id),
                ..NewRecord::default()
            };
            let answer = broker.produce(&topic.name, vec![keyed]).await;
            let known = answer.map_or_else(
                |error| json!(matches!(error, BrokerError::IdempotencyConflict { .. }).then_some("conflict")),
                |produced| json!({"duplicate": produced[0].duplicate, "partition": produced[0].partition, "offset": produced[0].offset}),
            );
            all.push(json!([topic.name, format!("id-{number}"), known]));
        }
    }
    all
}
