//! `POST /events`: stores events in the events topic; 202 once they are durable. A repeated id is 202 again and stored once.

use std::sync::atomic::Ordering::Relaxed;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::event::{self, Event, Events};
use crate::broker::{BrokerError, Durability, Produced};
use crate::http::body;
use crate::http::correlation::Correlation;
use crate::http::error::{Code, Problem};
use crate::http::extract::reply;
use crate::http::state::App;

#[derive(Serialize)]
struct Accepted<'a> {
    event_id: String,
    status: &'static str,
    duplicate: bool,
    topic: &'a str,
    partition: u32,
    offset: i64,
    durability: Durability,
}

#[derive(Serialize)]
struct AcceptedMany<'a> {
    status: &'static str,
    events: Vec<Accepted<'a>>,
}

pub async fn handle(State(app): State<App>, Extension(correlation): Extension<Correlation>, request: Request) -> Result<Response, Problem> {
    body::require_json(request.headers())?;
    let body = body::read(&app.config, &app.budget, request).await?;
    let (stored, single) = match store(&app, &correlation, &body).await {
        // The topic is made by the first event, and made again should someone delete it.
        Err(problem) if problem.code() == Code::TopicNotFound => {
            create_topic(&app).await?;
            store(&app, &correlation, &body).await?
        }
        result => result?,
    };
    count(&app, &stored);
    let mut events = stored.iter().map(|(event_id, produced)| accepted(*event_id, produced));
    Ok(match events.next() {
        Some(only) if single => reply(StatusCode::ACCEPTED, &only),
        first => reply(StatusCode::ACCEPTED, &AcceptedMany { status: "accepted", events: first.into_iter().chain(events).collect() }),
    })
}

/// Each event's id and place, and whether it was sent alone.
async fn store(app: &App, correlation: &Correlation, body: &Bytes) -> Result<(Vec<(Uuid, Produced)>, bool), Problem> {
    let (events, single) = match event::decode(body, || make_id(app))? {
        Events::One(event) => (vec![event], true),
        Events::Many(events) => (events, false),
    };
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let mut records: Vec<_> = events.into_iter().map(Event::into_record).collect();
    correlation.stamp(&mut records);
    let produced = app.broker.produce(&app.config.events_topic, records).await?;
    Ok((ids.into_iter().zip(produced).collect(), single))
}

/// Version 7: sorts by time.
fn make_id(app: &App) -> Uuid {
    let ms = u64::try_from(app.clock.wall().0).unwrap_or_default();
    Uuid::new_v7(uuid::Timestamp::from_unix_time(ms / 1000, u32::try_from(ms % 1000).unwrap_or_default() * 1_000_000, 0, 0))
}

async fn create_topic(app: &App) -> Result<(), Problem> {
    match app.broker.create_topic(&app.config.events_topic, app.config.events_topic_settings.clone()).await {
        // Another first event was quicker.
        Ok(_) | Err(BrokerError::TopicExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn count(app: &App, stored: &[(Uuid, Produced)]) {
    let duplicates = stored.iter().filter(|(_, produced)| produced.duplicate).count() as u64;
    app.metrics.events_received.fetch_add(stored.len() as u64, Relaxed);
    app.metrics.events_duplicate.fetch_add(duplicates, Relaxed);
}

fn accepted(event_id: Uuid, produced: &Produced) -> Accepted<'_> {
    Accepted {
        event_id: event_id.hyphenated().to_string(),
        status: "accepted",
        duplicate: produced.duplicate,
        topic: &produced.topic,
        partition: produced.partition,
        offset: produced.offset,
        durability: produced.durability,
    }
}
