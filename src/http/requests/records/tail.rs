//! `GET /v1/topics/{topic}/tail`: records of all partitions as server-sent events, as they become durable.
//!
//! Each event's `id` is the place in every partition after it, `partition-offset` joined by commas: sent back as
//! `Last-Event-ID`, the stream goes on there. A task reads and a bounded channel holds what the client has not taken, so
//! a slow client slows only its own reading.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_core::Stream;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::broker::{BrokerError, FetchRequest, SeekTo};
use crate::http::error::{Code, Problem};
use crate::http::extract::{Path, Query};
use crate::http::place::{PlaceQuery, record_id};
use crate::http::record_json::RecordJson;
use crate::http::state::App;

/// Every event names the place in every partition, so there is a limit to them.
const PARTITIONS_TAILED_MAX: usize = 256;
/// What one read of one partition brings at most.
const READ_RECORDS: usize = 256;
const READ_BYTES: usize = 256 * 1024;
/// Reads that wait for the client to take them.
const READS_AHEAD: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TailQuery {
    from: Option<String>,
    time: Option<String>,
}

/// Next offset per partition, by number.
type Places = Vec<i64>;

pub async fn handle(
    State(app): State<App>,
    Path(topic): Path<String>,
    Query(query): Query<TailQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let start = PlaceQuery { offset: None, from: query.from, time: query.time }.place()?.unwrap_or(SeekTo::Latest);
    let partitions = app.broker.topic(&topic)?.partitions.len();
    if partitions > PARTITIONS_TAILED_MAX {
        let detail = format!("`{topic}` has {partitions} partitions, a tail takes {PARTITIONS_TAILED_MAX}; read its partitions instead");
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let resumed = headers.get("last-event-id").map(|id| parse_id(id.to_str().unwrap_or_default())).transpose()?;
    let mut places = Places::with_capacity(partitions);
    for partition in 0..u32::try_from(partitions).unwrap_or(u32::MAX) {
        let known = resumed.iter().flatten().find(|(known, _)| *known == partition).map(|(_, offset)| *offset);
        places.push(match known {
            Some(offset) => offset,
            // A partition the id does not know was added since: all of it is new.
            None => app.broker.resolve(&topic, partition, if resumed.is_some() { SeekTo::Earliest } else { start }).await?,
        });
    }
    let (sender, receiver) = mpsc::channel(READS_AHEAD);
    tokio::spawn(async move {
        let stop = app.clone();
        tokio::select! {
            () = run(&app, &topic, places, &sender) => {}
            () = sender.closed() => {}
            () = stop.stop() => {}
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(Chunks(receiver))).into_response())
}

/// Reads and sends until the topic or the client is gone.
async fn run(app: &App, topic: &str, mut places: Places, client: &mpsc::Sender<Bytes>) {
    // Sent at once so that the client knows it is connected, and where it stands, before anything happens.
    if client.send(Bytes::from(format!("retry: 1000\nid: {}\n: connected\n\n", render_id(&places)))).await.is_err() {
        return;
    }
    loop {
        // Asked for before reading, so that what arrives while reading is not slept through.
        let mut changed = match app.broker.topic_changed(topic) {
            Ok(changed) => pin!(changed),
            Err(error) => return end(client, error).await,
        };
        let mut read_any = false;
        for partition in 0..places.len() {
            match read(app, topic, partition, &mut places).await {
                Ok(None) => {}
                Ok(Some(events)) => {
                    read_any = true;
                    if client.send(events).await.is_err() {
                        return;
                    }
                }
                Err(error) => return end(client, error).await,
            }
        }
        if read_any {
            continue;
        }
        loop {
            tokio::select! {
                () = changed.as_mut() => break,
                () = tokio::time::sleep(app.config.tail_comment_every) => {
                    if client.send(Bytes::from_static(b": quiet\n\n")).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The last event: the topic is gone, or reading it fails.
async fn end(client: &mpsc::Sender<Bytes>, error: BrokerError) {
    let problem = Problem::from(error);
    let event = format!("event: error\ndata: {{\"code\":\"{}\"}}\n\n", problem.code().name());
    // The client may be gone already; either way there is nothing left to tell it.
    let _ = client.send(Bytes::from(event)).await;
}

/// Events of what one partition holds beyond its place, which moves on.
async fn read(app: &App, topic: &str, partition: usize, places: &mut Places) -> Result<Option<Bytes>, BrokerError> {
    let (Some(offset), Ok(number)) = (places.get(partition).copied(), u32::try_from(partition)) else { return Ok(None) };
    let request = FetchRequest {
        topic: topic.to_owned(),
        partition: number,
        offset,
        records_max: READ_RECORDS,
        bytes_max: READ_BYTES,
        wait: Duration::ZERO,
    };
    let fetched = match app.broker.fetch(request).await {
        Ok(fetched) => fetched,
        Err(BrokerError::OffsetOutOfRange { start, .. }) => {
            // Retention overtook a slow client: it goes on at what is left.
            set(places, partition, start);
            return Ok(Some(Bytes::from_static(b": records were removed before they were read\n\n")));
        }
        Err(BrokerError::RecordsLost { from, to, .. }) => {
            set(places, partition, to);
            return Ok(Some(Bytes::from(format!(": offsets {from} to {} of partition {number} were lost to damage\n\n", to - 1))));
        }
        Err(error) => return Err(error),
    };
    let mut events = Vec::new();
    for record in &fetched.records {
        set(places, partition, record.offset + 1);
        events.extend_from_slice(format!("id: {}\nevent: record\ndata: ", render_id(places)).as_bytes());
        serde_json::to_writer(&mut events, &RecordJson(record)).map_err(|e| BrokerError::InvalidRequest(e.to_string()))?;
        events.extend_from_slice(b"\n\n");
    }
    set(places, partition, fetched.next_offset);
    Ok((!events.is_empty()).then(|| Bytes::from(events)))
}

fn set(places: &mut Places, partition: usize, offset: i64) {
    if let Some(place) = places.get_mut(partition) {
        *place = offset;
    }
}

fn render_id(places: &Places) -> String {
    let parts: Vec<String> = places.iter().enumerate().map(|(partition, offset)| format!("{partition}-{offset}")).collect();
    parts.join(",")
}

fn parse_id(id: &str) -> Result<Vec<(u32, i64)>, Problem> {
    id.split(',').filter(|part| !part.trim().is_empty()).map(|part| record_id(part.trim())).collect()
}

/// What the task sent, as a body.
struct Chunks(mpsc::Receiver<Bytes>);

impl Stream for Chunks {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_every_partition_and_is_read_back() {
        let places = vec![7, 0, 12];
        assert_eq!(render_id(&places), "0-7,1-0,2-12");
        assert_eq!(parse_id("0-7,1-0,2-12").unwrap(), [(0, 7), (1, 0), (2, 12)]);
        assert_eq!(parse_id("").unwrap(), []);
        assert!(parse_id("0-7,x").is_err());
    }
}
