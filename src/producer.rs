//! Typed publishing: values of one type to one topic, as JSON unless told otherwise, with their key and idempotency key.
//!
//! Thin over [`Broker::produce`]: it only encodes.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::broker::{Broker, BrokerError, Header, NewRecord, Produced, Result};

type Of<T, V> = Arc<dyn Fn(&T) -> V + Send + Sync>;
type Encode<T> = Of<T, Result<Bytes, String>>;

/// Publishes values of one type to one topic. Cheap to clone.
pub struct Producer<T> {
    broker: Broker,
    topic: String,
    key: Option<Of<T, Bytes>>,
    id: Option<Of<T, Bytes>>,
    headers: Option<Of<T, Vec<Header>>>,
    encode: Encode<T>,
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self {
            broker: self.broker.clone(),
            topic: self.topic.clone(),
            key: self.key.clone(),
            id: self.id.clone(),
            headers: self.headers.clone(),
            encode: Arc::clone(&self.encode),
        }
    }
}

impl<T: Serialize> Producer<T> {
    /// A producer that writes JSON.
    pub fn new(broker: &Broker, topic: impl Into<String>) -> Self {
        Self::with_encoding(broker, topic, |value| serde_json::to_vec(value).map(Bytes::from).map_err(|error| error.to_string()))
    }
}

impl<T> Producer<T> {
    /// A producer with its own form of values. What `encode` cannot write is refused with its words.
    pub fn with_encoding(
        broker: &Broker,
        topic: impl Into<String>,
        encode: impl Fn(&T) -> Result<Bytes, String> + Send + Sync + 'static,
    ) -> Self {
        Self { broker: broker.clone(), topic: topic.into(), key: None, id: None, headers: None, encode: Arc::new(encode) }
    }

    /// Records of one key go to one partition, in order.
    #[must_use]
    pub fn key<B: Into<Bytes>>(mut self, key: impl Fn(&T) -> B + Send + Sync + 'static) -> Self {
        self.key = Some(Arc::new(move |value| key(value).into()));
        self
    }

    /// The idempotency key: a repeat within the topic's window is stored once.
    #[must_use]
    pub fn id<B: Into<Bytes>>(mut self, id: impl Fn(&T) -> B + Send + Sync + 'static) -> Self {
        self.id = Some(Arc::new(move |value| id(value).into()));
        self
    }

    #[must_use]
    pub fn headers(mut self, headers: impl Fn(&T) -> Vec<Header> + Send + Sync + 'static) -> Self {
        self.headers = Some(Arc::new(headers));
        self
    }

    /// Publishes one value; answers once it is durable.
    ///
    /// # Errors
    /// [`BrokerError::InvalidRequest`] when the value cannot be encoded, otherwise as [`Broker::produce`].
    pub async fn send(&self, value: &T) -> Result<Produced> {
        let record = self.record(0, value)?;
        let produced = self.broker.produce(&self.topic, vec![record]).await?;
        produced.into_iter().next().ok_or(BrokerError::Closing)
    }

    /// Publishes values together: all of them or none.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_all<'a>(&self, values: impl IntoIterator<Item = &'a T>) -> Result<Vec<Produced>>
    where
        T: 'a,
    {
        let records: Result<Vec<NewRecord>> = values.into_iter().enumerate().map(|(index, value)| self.record(index, value)).collect();
        self.broker.produce(&self.topic, records?).await
    }

    fn record(&self, index: usize, value: &T) -> Result<NewRecord> {
        let encoded = (self.encode)(value);
        let encoded = encoded.map_err(|why| BrokerError::InvalidRequest(format!("record {index} cannot be encoded: {why}")))?;
        Ok(NewRecord {
            key: self.key.as_ref().map(|key| key(value)),
            value: Some(encoded),
            headers: self.headers.as_ref().map(|headers| headers(value)).unwrap_or_default(),
            idempotency_key: self.id.as_ref().map(|id| id(value)),
            ..NewRecord::default()
        })
    }
}
