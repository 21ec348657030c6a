//! Typed receiving: values of one type out of a queue group, each with the means to settle it.
//!
//! Thin over [`Broker::receive`]: it only decodes. A value that cannot be decoded never reaches the caller: it goes to the dead
//! letters at once, because no retry would read it better.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::broker::{Broker, BrokerError, Delivery, Failure, LeaseError, Outcomes, ReceiveRequest, Record, Result};

type Decode<T> = Arc<dyn Fn(&Record) -> Result<T, String> + Send + Sync>;

/// Reads a record's value from JSON. No value reads as `null`.
pub(crate) fn from_json<T: DeserializeOwned>(record: &Record) -> Result<T, String> {
    serde_json::from_slice(record.value.as_deref().unwrap_or(b"null")).map_err(|error| error.to_string())
}

/// The reason in the dead letter of a value that cannot be read.
pub(crate) fn undecodable(why: &str) -> String {
    format!("the value cannot be decoded: {why}")
}

/// Receives values of one type as a member of a queue group. Cheap to clone.
pub struct Receiver<T> {
    place: Arc<Place>,
    visibility_ms: Option<u64>,
    decode: Decode<T>,
}

/// Where leases were taken.
struct Place {
    broker: Broker,
    topic: String,
    group: String,
    member: String,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { place: Arc::clone(&self.place), visibility_ms: self.visibility_ms, decode: Arc::clone(&self.decode) }
    }
}

impl<T: DeserializeOwned + 'static> Receiver<T> {
    /// A receiver that reads JSON. `member` is the name its leases are booked under.
    pub fn new(broker: &Broker, topic: impl Into<String>, group: impl Into<String>, member: impl Into<String>) -> Self {
        Self::with_decoding(broker, topic, group, member, from_json)
    }
}

impl<T> Receiver<T> {
    /// A receiver with its own form of values. What `decode` cannot read goes to the dead letters with its words.
    pub fn with_decoding(
        broker: &Broker,
        topic: impl Into<String>,
        group: impl Into<String>,
        member: impl Into<String>,
        decode: impl Fn(&Record) -> Result<T, String> + Send + Sync + 'static,
    ) -> Self {
        let place = Place { broker: broker.clone(), topic: topic.into(), group: group.into(), member: member.into() };
        Self { place: Arc::new(place), visibility_ms: None, decode: Arc::new(decode) }
    }

    /// How long leases last, instead of the group's time.
    #[must_use]
    pub fn visibility(mut self, visibility: Duration) -> Self {
        self.visibility_ms = Some(milliseconds(visibility));
        self
    }

    /// Leases at most `records_max` values; waits for the first. Empty when `wait` has passed.
    ///
    /// # Errors
    /// As [`Broker::receive`].
    pub async fn receive(&self, records_max: usize, wait: Duration) -> Result<Vec<Received<T>>> {
        let Place { broker, topic, group, member } = &*self.place;
        let deadline = broker.clock().monotonic() + wait;
        loop {
            let request = ReceiveRequest {
                topic: topic.clone(),
                group: group.clone(),
                member: member.clone(),
                records_max,
                wait: deadline.saturating_sub(broker.clock().monotonic()),
                visibility_ms: self.visibility_ms,
            };
            let deliveries = broker.receive(request).await?;
            let is_over = deliveries.is_empty();
            let received = self.decode_all(deliveries).await?;
            if is_over || !received.is_empty() {
                return Ok(received);
            }
        }
    }

    /// Leases one value; `None` when `wait` has passed.
    ///
    /// # Errors
    /// As [`Broker::receive`].
    pub async fn next(&self, wait: Duration) -> Result<Option<Received<T>>> {
        Ok(self.receive(1, wait).await?.pop())
    }

    /// Decodes, and sends what cannot be decoded to the dead letters.
    async fn decode_all(&self, deliveries: Vec<Delivery>) -> Result<Vec<Received<T>>> {
        let mut received = Vec::with_capacity(deliveries.len());
        let mut failures = Vec::new();
        for delivery in deliveries {
            match (self.decode)(&delivery.record) {
                Ok(value) => received.push(Received { value, delivery, place: Arc::clone(&self.place) }),
                Err(why) => {
                    let lease = Some(delivery.lease);
                    failures.push(Failure { lease, delay_ms: None, reason: undecodable(&why), permanent: true });
                }
            }
        }
        if !failures.is_empty() {
            // A stale lease among them is another member's record by now.
            self.place.broker.nack(&self.place.topic, &self.place.group, &failures).await?;
        }
        Ok(received)
    }
}

/// A leased value. Dropped without being settled, it comes again when its lease runs out.
pub struct Received<T> {
    pub value: T,
    pub delivery: Delivery,
    place: Arc<Place>,
}

/// Why a value could not be settled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SettleError {
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl<T> Received<T> {
    /// 1 for the first delivery.
    pub const fn attempt(&self) -> u32 {
        self.delivery.attempt
    }

    /// Done: the group never sees it again. Answers once that is durable.
    ///
    /// # Errors
    /// The lease passed to another delivery, or the broker failed.
    pub async fn ack(self) -> Result<(), SettleError> {
        let Place { broker, topic, group, .. } = &*self.place;
        only(broker.ack(topic, group, &[self.delivery.lease]).await)
    }

    /// Again, when the group's backoff says so; the last attempt the group allows goes to the dead letters.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn retry(self, reason: impl Into<String>) -> Result<(), SettleError> {
        self.fail(None, reason.into(), false).await
    }

    /// Again after `delay`.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn retry_after(self, delay: Duration, reason: impl Into<String>) -> Result<(), SettleError> {
        self.fail(Some(milliseconds(delay)), reason.into(), false).await
    }

    /// To the dead letters at once.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn dead_letter(self, reason: impl Into<String>) -> Result<(), SettleError> {
        self.fail(None, reason.into(), true).await
    }

    /// Lets the lease last `visibility` from now.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn extend(&self, visibility: Duration) -> Result<(), SettleError> {
        let Place { broker, topic, group, .. } = &*self.place;
        only(broker.extend(topic, group, &[self.delivery.lease], milliseconds(visibility)).await)
    }

    /// Gives it back at once, without a failure and without counting the attempt.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn release(self) -> Result<(), SettleError> {
        let Place { broker, topic, group, .. } = &*self.place;
        only(broker.release(topic, group, &[self.delivery.lease]).await)
    }

    async fn fail(self, delay_ms: Option<u64>, reason: String, permanent: bool) -> Result<(), SettleError> {
        let Place { broker, topic, group, .. } = &*self.place;
        let failure = Failure { lease: Some(self.delivery.lease), delay_ms, reason, permanent };
        only(broker.nack(topic, group, &[failure]).await)
    }
}

/// The answer about the one lease that was named.
fn only(outcomes: Result<Outcomes>) -> Result<(), SettleError> {
    outcomes?.pop().unwrap_or(Err(LeaseError::Unknown))?;
    Ok(())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
