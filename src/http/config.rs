//! Limits and names of the HTTP front end. Every maximum has its name here; nothing is read from files or the environment.

use std::time::Duration;

use crate::broker::TopicSettings;

/// How the HTTP front end behaves.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Name of this broker, shown at `GET /`.
    pub instance: String,
    /// Largest request body, bytes.
    pub body_bytes_max: usize,
    /// Bytes that large bodies may have in memory together; more wait, and are refused as too much after a while.
    pub bodies_bytes_max: usize,
    pub bodies_wait: Duration,
    /// Largest request line and headers together, bytes.
    pub header_bytes_max: usize,
    /// Connections served at once; more wait to be accepted.
    pub connections_max: usize,
    /// From the first byte of a request to the last of its headers.
    pub header_timeout: Duration,
    /// From the end of the headers to the end of the body.
    pub body_timeout: Duration,
    /// A connection on which nothing moves between requests is closed after this long.
    pub idle_timeout: Duration,
    /// Longest `wait_ms` of a long poll; longer ones are cut to it.
    pub wait_max: Duration,
    /// Time between comments on a quiet event stream.
    pub tail_comment_every: Duration,
    /// After the stop signal, requests still running are cut off after this long.
    pub stop_grace: Duration,
    /// Where `POST /events` stores.
    pub events_topic: String,
    /// Settings of that topic when the first event creates it.
    pub events_topic_settings: TopicSettings,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            instance: "onelog".to_owned(),
            body_bytes_max: 8 * 1024 * 1024,
            bodies_bytes_max: 64 * 1024 * 1024,
            bodies_wait: Duration::from_secs(5),
            header_bytes_max: 64 * 1024,
            connections_max: 16_384,
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            wait_max: Duration::from_secs(60),
            tail_comment_every: Duration::from_secs(15),
            stop_grace: Duration::from_secs(4),
            events_topic: "events".to_owned(),
            events_topic_settings: TopicSettings::default(),
        }
    }
}
