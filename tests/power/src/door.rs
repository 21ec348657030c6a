//! The two ways in to a broker under load: the crate in this process, or the built program over HTTP. The same calls for both.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use onelog::broker::{CommittedOffset, LeaseId};
use onelog::client::{Client, Path};
use onelog::{Broker, Failure, GroupSettings, ReceiveRequest, TopicSettings};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::history::{GROUP, Number, ORDERS, Place, STREAM_GROUP, TOPICS, Topic};

/// How long a receiver waits for a first record.
const RECEIVE_WAIT: Duration = Duration::from_millis(5);

#[derive(Clone)]
pub enum Door {
    Crate(Broker),
    Http(Client),
}

/// Where a record went, and whether it was there already.
pub struct Stored {
    pub place: Place,
    pub duplicate: bool,
}

/// A record leased.
pub struct Leased {
    pub place: Place,
    pub lease: LeaseId,
}

pub fn group_settings() -> GroupSettings {
    // Nothing dies by itself, and nothing comes back by itself while a recording runs.
    GroupSettings { max_deliveries: 0, visibility_ms: 600_000, ..GroupSettings::default() }
}

impl Door {
    pub async fn make_topic(&self, name: &str, settings: TopicSettings) -> Result<()> {
        match self {
            Self::Crate(broker) => {
                broker.ensure_topic(name, settings).await?;
                broker.create_group(name, GROUP, group_settings()).await?;
            }
            Self::Http(client) => {
                let body = json!({"name": name, "partitions": settings.partitions});
                let made = client.call::<Value>(Method::POST, Path::new("/v1/topics"), &body).await;
                if let Err(refused) = made {
                    ensure!(client.get::<Value>(Path::topic(name)).await.is_ok(), "making a topic: {refused}");
                }
                let group = serde_json::to_value(group_settings())?;
                client.call::<Value>(Method::PUT, Path::group(name, GROUP), &group).await?;
            }
        }
        Ok(())
    }

    /// All or none.
    pub async fn publish(&self, numbers: &[Number]) -> Result<Vec<Stored>> {
        match self {
            Self::Crate(broker) => {
                let records = numbers.iter().map(|number| (TOPICS[number.topic()].0.to_owned(), number.record())).collect();
                let produced = broker.produce_atomic(records).await?;
                Ok(produced.iter().map(|one| Stored { place: (one.partition, one.offset), duplicate: one.duplicate }).collect())
            }
            Self::Http(client) => {
                let records: Vec<Value> = numbers.iter().map(|number| as_json(*number)).collect();
                let answer: Published = client.call(Method::POST, Path::new("/v1/batch"), &json!({ "records": records })).await?;
                Ok(answer.records.iter().map(|one| Stored { place: (one.partition, one.offset), duplicate: one.duplicate }).collect())
            }
        }
    }

    /// Leases what is there now.
    pub async fn receive(&self, topic: Topic, most: usize) -> Result<Vec<Leased>> {
        let topic = TOPICS[topic].0;
        match self {
            Self::Crate(broker) => {
                let request = ReceiveRequest {
                    topic: topic.into(),
                    group: GROUP.into(),
                    member: "member".into(),
                    records_max: most,
                    wait: RECEIVE_WAIT,
                    visibility_ms: None,
                };
                let found = broker.receive(request).await?;
                Ok(found.iter().map(|one| Leased { place: (one.record.partition, one.record.offset), lease: one.lease }).collect())
            }
            Self::Http(client) => {
                let body = json!({"max": most, "wait_ms": RECEIVE_WAIT.as_millis()});
                let found: Deliveries = client.call(Method::POST, Path::group(topic, GROUP).then("receive"), &body).await?;
                Ok(found.deliveries.iter().map(|one| Leased { place: (one.partition, one.offset), lease: one.lease }).collect())
            }
        }
    }

    /// Acks, or dead-letters. An error when any of the leases was refused.
    pub async fn settle(&self, topic: Topic, leases: &[LeaseId], dead: bool) -> Result<()> {
        let topic = TOPICS[topic].0;
        match self {
            Self::Crate(broker) => {
                let outcomes = if dead {
                    let failure = |lease: &LeaseId| Failure { lease: Some(*lease), reason: "bad".into(), permanent: true, delay_ms: None };
                    broker.nack(topic, GROUP, &leases.iter().map(failure).collect::<Vec<_>>()).await?
                } else {
                    broker.ack(topic, GROUP, leases).await?
                };
                outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
            }
            Self::Http(client) => {
                let (verb, body) = if dead {
                    let failures: Vec<Value> =
                        leases.iter().map(|lease| json!({"lease": lease, "reason": "bad", "permanent": true})).collect();
                    ("nack", json!({ "failures": failures }))
                } else {
                    ("ack", json!({ "leases": leases }))
                };
                let answer: Value = client.call(Method::POST, Path::group(topic, GROUP).then(verb), &body).await?;
                let outcomes = answer["outcomes"].as_array().context("no outcomes")?;
                ensure!(outcomes.iter().all(|outcome| outcome["error"].is_null()), "refused: {answer}");
            }
        }
        Ok(())
    }

    pub async fn commit_offset(&self, place: Place) -> Result<()> {
        let (partition, offset) = place;
        let committed = CommittedOffset { topic: TOPICS[ORDERS].0.into(), partition, offset, metadata: None };
        match self {
            Self::Crate(broker) => broker.commit_offsets(STREAM_GROUP, vec![committed]).await?,
            Self::Http(client) => {
                let path = Path::new("/v1/stream-groups").then(STREAM_GROUP).then("offsets");
                client.call::<Value>(Method::PUT, path, &json!({ "offsets": [committed] })).await?;
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Published {
    records: Vec<PublishedRecord>,
}

#[derive(Deserialize)]
struct PublishedRecord {
    partition: u32,
    offset: i64,
    duplicate: bool,
}

#[derive(Deserialize)]
struct Deliveries {
    deliveries: Vec<DeliveredRecord>,
}

#[derive(Deserialize)]
struct DeliveredRecord {
    partition: u32,
    offset: i64,
    lease: LeaseId,
}

fn as_json(number: Number) -> Value {
    let mut record = json!({
        "topic": TOPICS[number.topic()].0,
        "key": number.key(),
        "value_base64": STANDARD.encode(number.value()),
    });
    if number.keyed() {
        record["id"] = number.id().into();
    }
    record
}
