//! Sends one batch, and repeats it when that is safe: a refusal stored nothing, a lost connection may have stored all of it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use tokio::time::Instant;

use crate::client::views::ProducedList;
use crate::client::{Call, Client, ClientError, NDJSON, Path, Problem};

use super::Fields;
use super::batch::Batch;

/// A batch that finds no way through for this long is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pauses where the server names none: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(3);

/// Sends batches to one topic.
pub struct Sender {
    client: Client,
    topic: String,
    path: Path,
    /// Whether lines carry an idempotency key, so that a repeat cannot store them twice.
    repeatable: bool,
    /// Whether the server ever answered: one that never did is not running, one that did may be starting again.
    answered: AtomicBool,
}

impl Sender {
    pub fn new(client: Client, topic: &str, fields: &Fields) -> Self {
        let mut path = Path::topic(topic).then("records");
        if fields.headers.is_empty() {
            path = path.query("raw", Some(true)).query("key_field", fields.key_field.as_ref()).query("id_field", fields.id_field.as_ref());
        }
        Self { client, topic: topic.to_owned(), path, repeatable: fields.id_field.is_some(), answered: AtomicBool::new(false) }
    }

    /// Sends until it is acknowledged; answers with the number of duplicates.
    pub async fn send(&self, batch: &Batch) -> anyhow::Result<u64> {
        let body = Bytes::copy_from_slice(&batch.body);
        let (started, mut pause) = (Instant::now(), PAUSE_FIRST);
        loop {
            let failure = match self.once(body.clone()).await {
                Ok(duplicates) => return Ok(duplicates),
                Err(failure) => failure,
            };
            let Some(wait) = self.worth_waiting(&failure, pause) else { return Err(self.explain(failure, batch)) };
            if started.elapsed() + wait > PATIENCE {
                return Err(self.explain(failure, batch).context(format!("gave up after {} s", PATIENCE.as_secs())));
            }
            if pause == PAUSE_FIRST {
                eprintln!("waiting, up to {} s: {failure}", PATIENCE.as_secs());
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    async fn once(&self, body: Bytes) -> Result<u64, ClientError> {
        let call = Call { content_type: NDJSON, body, ..Call::new(Method::POST, self.path.clone()) };
        let answer = self.client.send_json::<ProducedList>(call).await?;
        self.answered.store(true, Relaxed);
        Ok(answer.records.iter().filter(|record| record.duplicate).count() as u64)
    }

    /// How long to wait before a repeat; `None` when there must not be one.
    fn worth_waiting(&self, failure: &ClientError, pause: Duration) -> Option<Duration> {
        match failure {
            // A store that failed while writing may have stored what it was writing, and will not recover by waiting.
            ClientError::Refused(problem) if problem.code == "storage_failed" => None,
            ClientError::Refused(problem) if matches!(problem.status, 429 | 503) => Some(problem.retry_after.unwrap_or(pause)),
            ClientError::Unreachable { .. } if self.answered.load(Relaxed) => Some(pause),
            ClientError::Lost { .. } if self.repeatable => Some(pause),
            _ => None,
        }
    }

    fn explain(&self, failure: ClientError, batch: &Batch) -> anyhow::Error {
        match &failure {
            ClientError::Lost { .. } if !self.repeatable => anyhow::anyhow!(
                "{failure}; whether {} were stored is unknown, and repeating them could store them twice \
                 (with --id-field, repeating is safe and done for you)",
                batch.span()
            ),
            ClientError::Refused(Problem { code, .. }) if code == "topic_not_found" => anyhow::anyhow!(
                "topic `{0}` does not exist; create it with `onelog topic create {0}`, or pass --create or --create-partitions N",
                self.topic
            ),
            ClientError::Refused(problem) => match problem.index.and_then(|index| batch.place(index)) {
                Some(place) => anyhow::anyhow!("{place}: {problem}"),
                None => anyhow::anyhow!("{}: {problem}", batch.span()),
            },
            _ => failure.into(),
        }
    }
}
