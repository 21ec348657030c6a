//! The one table of what the HTTP front end takes. The router and the OpenAPI document are both built from it, so what is
//! documented is what is served.

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{self, MethodRouter};

use super::error::{Code, Problem};
use super::negotiate::NDJSON;
use super::requests::{dead_letters, events, groups, records, stream_groups, system, topics};
use super::state::App;

/// One request: how it is reached, what it takes and answers, who handles it.
pub struct Route {
    /// Lower case, as OpenAPI writes it.
    pub method: &'static str,
    pub path: &'static str,
    pub tag: &'static str,
    /// Unique name for generated clients.
    pub id: &'static str,
    pub summary: &'static str,
    /// Names of query and header parameters in `openapi/parameters.json`.
    pub parameters: &'static [&'static str],
    /// Media types the body may have, and the schema of each in `openapi/schemas.json`.
    pub body: &'static [Content],
    /// Status of success.
    pub status: u16,
    pub answer: &'static [Content],
    handler: fn() -> MethodRouter<App>,
}

/// A media type and the name of its schema.
pub type Content = (&'static str, &'static str);

const JSON: &str = "application/json";

impl Route {
    const fn new(
        method: &'static str,
        path: &'static str,
        name: [&'static str; 2],
        summary: &'static str,
        handler: fn() -> MethodRouter<App>,
    ) -> Self {
        let [tag, id] = name;
        Self { method, path, tag, id, summary, parameters: &[], body: &[], status: 200, answer: &[], handler }
    }

    const fn parameters(mut self, names: &'static [&'static str]) -> Self {
        self.parameters = names;
        self
    }

    const fn body(mut self, contents: &'static [Content]) -> Self {
        self.body = contents;
        self
    }

    const fn answer(mut self, status: u16, contents: &'static [Content]) -> Self {
        self.status = status;
        self.answer = contents;
        self
    }
}

const fn get(path: &'static str, name: [&'static str; 2], summary: &'static str, handler: fn() -> MethodRouter<App>) -> Route {
    Route::new("get", path, name, summary, handler)
}

const fn post(path: &'static str, name: [&'static str; 2], summary: &'static str, handler: fn() -> MethodRouter<App>) -> Route {
    Route::new("post", path, name, summary, handler)
}

const fn put(path: &'static str, name: [&'static str; 2], summary: &'static str, handler: fn() -> MethodRouter<App>) -> Route {
    Route::new("put", path, name, summary, handler)
}

const fn patch(path: &'static str, name: [&'static str; 2], summary: &'static str, handler: fn() -> MethodRouter<App>) -> Route {
    Route::new("patch", path, name, summary, handler)
}

const fn delete(path: &'static str, name: [&'static str; 2], summary: &'static str, handler: fn() -> MethodRouter<App>) -> Route {
    Route::new("delete", path, name, summary, handler)
}

/// Everything that is served.
#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    // -- the plain doors
    post("/events", ["events", "publish_events"], "Store an event, or an array of them; 202 once durable. A repeated event_id is stored once.", || routing::post(events::publish::handle))
        .body(&[(JSON, "EventInput")]).answer(202, &[(JSON, "EventAccepted")]),
    get("/", ["system", "info"], "What this is and where to go on.", || routing::get(system::info::handle))
        .answer(200, &[(JSON, "Info")]),
    get("/health", ["system", "health"], "Whether everything works, part by part; 503 when publishing does not.", || routing::get(system::health::handle))
        .answer(200, &[(JSON, "Health")]),
    get("/health/live", ["system", "live"], "Whether the process answers.", || routing::get(system::live::handle))
        .answer(200, &[(JSON, "Status")]),
    get("/health/ready", ["system", "ready"], "Whether requests should be sent here.", || routing::get(system::ready::handle))
        .answer(200, &[(JSON, "Status")]),
    get("/metrics", ["system", "metrics"], "Everything counted, as Prometheus text.", || routing::get(system::metrics::handle))
        .answer(200, &[("text/plain", "Text")]),
    get("/metrics/summary", ["system", "metrics_summary"], "The few numbers people ask for first.", || routing::get(system::summary::handle))
        .answer(200, &[(JSON, "MetricsSummary")]),
    get("/openapi.json", ["system", "openapi"], "This document.", || routing::get(system::openapi::handle))
        .answer(200, &[(JSON, "OpenApi")]),
    get("/docs", ["system", "docs"], "This document as a page.", || routing::get(system::docs::handle))
        .answer(200, &[("text/html", "Text")]),

    // -- topics
    get("/v1/topics", ["topics", "list_topics"], "List topics by name.", || routing::get(topics::list::handle))
        .parameters(&["prefix", "after_topic", "limit"]).answer(200, &[(JSON, "TopicList")]),
    post("/v1/topics", ["topics", "create_topic"], "Create a topic.", || routing::post(topics::create::handle))
        .body(&[(JSON, "NewTopic")]).answer(201, &[(JSON, "Topic")]),
    get("/v1/topics/{topic}", ["topics", "get_topic"], "Show a topic.", || routing::get(topics::get::handle))
        .answer(200, &[(JSON, "Topic")]),
    patch("/v1/topics/{topic}", ["topics", "alter_topic"], "Change the settings that are given.", || routing::patch(topics::alter::handle))
        .body(&[(JSON, "TopicChange")]).answer(200, &[(JSON, "Topic")]),
    delete("/v1/topics/{topic}", ["topics", "delete_topic"], "Delete a topic with its records and groups.", || routing::delete(topics::delete::handle))
        .answer(204, &[]),

    // -- records
    post("/v1/topics/{topic}/records", ["records", "publish_records"], "Publish records to a topic: all or none, answered once durable.", || routing::post(records::publish::handle))
        .parameters(&["raw", "key_field", "id_field", "expected_offset"])
        .body(&[(JSON, "RecordsInput"), (NDJSON, "RecordInput")]).answer(200, &[(JSON, "Published")]),
    post("/v1/batch", ["records", "publish_batch"], "Publish records to several topics: all or none.", || routing::post(records::publish_batch::handle))
        .body(&[(JSON, "BatchInput"), (NDJSON, "BatchRecordInput")]).answer(200, &[(JSON, "Published")]),
    get("/v1/topics/{topic}/partitions/{partition}/records", ["records", "fetch_records"], "Read records from a place on; from=earliest when none is named.", || routing::get(records::fetch::handle))
        .parameters(&["offset", "from", "time", "max_records", "max_bytes", "wait_ms"])
        .answer(200, &[(JSON, "Fetched"), (NDJSON, "Record")]),
    get("/v1/topics/{topic}/partitions/{partition}/offset", ["records", "resolve_offset"], "The offset a time, or the earliest or latest place, stands for.", || routing::get(records::resolve::handle))
        .parameters(&["at", "time"]).answer(200, &[(JSON, "ResolvedOffset")]),
    get("/v1/topics/{topic}/tail", ["records", "tail_topic"], "Follow all partitions as server-sent events; from=latest when no place is named.", || routing::get(records::tail::handle))
        .parameters(&["from", "time", "last_event_id"]).answer(200, &[("text/event-stream", "RecordEvents")]),

    // -- queue groups
    get("/v1/topics/{topic}/groups", ["groups", "list_groups"], "List the queue groups of a topic.", || routing::get(groups::list::handle))
        .answer(200, &[(JSON, "GroupList")]),
    get("/v1/topics/{topic}/groups/{group}", ["groups", "get_group"], "Show a queue group with its counts and members.", || routing::get(groups::get::handle))
        .answer(200, &[(JSON, "Group")]),
    put("/v1/topics/{topic}/groups/{group}", ["groups", "create_group"], "Create a queue group; again with the same settings is no failure.", || routing::put(groups::create::handle))
        .body(&[(JSON, "GroupSettings")]).answer(200, &[(JSON, "Group")]),
    patch("/v1/topics/{topic}/groups/{group}", ["groups", "alter_group"], "Change the settings that are given.", || routing::patch(groups::alter::handle))
        .body(&[(JSON, "GroupSettings")]).answer(200, &[(JSON, "Group")]),
    delete("/v1/topics/{topic}/groups/{group}", ["groups", "delete_group"], "Forget a queue group; records and dead letters stay.", || routing::delete(groups::delete::handle))
        .answer(204, &[]),
    post("/v1/topics/{topic}/groups/{group}/receive", ["groups", "receive"], "Lease records; the group is created when it does not exist.", || routing::post(groups::receive::handle))
        .body(&[(JSON, "ReceiveInput")]).answer(200, &[(JSON, "Deliveries"), (NDJSON, "Delivery")]),
    post("/v1/topics/{topic}/groups/{group}/ack", ["groups", "ack"], "Settle leases for ever.", || routing::post(groups::ack::handle))
        .body(&[(JSON, "LeasesInput")]).answer(200, &[(JSON, "Outcomes")]),
    post("/v1/topics/{topic}/groups/{group}/nack", ["groups", "nack"], "Hand failed records back, for a retry or to the dead letters.", || routing::post(groups::nack::handle))
        .body(&[(JSON, "NackInput")]).answer(200, &[(JSON, "Outcomes")]),
    post("/v1/topics/{topic}/groups/{group}/extend", ["groups", "extend"], "Keep leases for longer, counted from now.", || routing::post(groups::extend::handle))
        .body(&[(JSON, "ExtendInput")]).answer(200, &[(JSON, "Outcomes")]),
    post("/v1/topics/{topic}/groups/{group}/release", ["groups", "release"], "Give leases back at once without counting the attempt.", || routing::post(groups::release::handle))
        .body(&[(JSON, "LeasesInput")]).answer(200, &[(JSON, "Outcomes")]),
    post("/v1/topics/{topic}/groups/{group}/seek", ["groups", "seek_group"], "Move a queue group; its leases are void afterwards.", || routing::post(groups::seek::handle))
        .body(&[(JSON, "SeekGroupInput")]).answer(200, &[(JSON, "Group")]),

    // -- dead letters
    get("/v1/topics/{topic}/dead-letters", ["dead letters", "list_dead_letters"], "List unresolved dead letters in the order they died.", || routing::get(dead_letters::list::handle))
        .parameters(&["filter_group", "filter_key", "filter_header", "filter_reason", "filter_from_ms", "filter_to_ms", "after_record", "limit"])
        .answer(200, &[(JSON, "DeadLetterList")]),
    get("/v1/topics/{topic}/dead-letters/{partition}/{offset}", ["dead letters", "get_dead_letter"], "Show a dead letter.", || routing::get(dead_letters::get::handle))
        .answer(200, &[(JSON, "DeadLetter")]),
    post("/v1/topics/{topic}/dead-letters/redrive", ["dead letters", "redrive"], "Send chosen dead letters back; a dry run only counts.", || routing::post(dead_letters::redrive::handle))
        .body(&[(JSON, "RedriveInput")]).answer(200, &[(JSON, "RedriveReport")]),
    post("/v1/topics/{topic}/dead-letters/{partition}/{offset}/redrive", ["dead letters", "redrive_edited"], "Send one dead letter back, with what the body names replaced.", || routing::post(dead_letters::redrive_one::handle))
        .body(&[(JSON, "EditInput")]).answer(200, &[(JSON, "Produced")]),
    post("/v1/topics/{topic}/dead-letters/purge", ["dead letters", "purge"], "Mark chosen dead letters resolved without sending them anywhere.", || routing::post(dead_letters::purge::handle))
        .body(&[(JSON, "PurgeInput")]).answer(200, &[(JSON, "RedriveReport")]),

    // -- stream groups
    get("/v1/stream-groups", ["stream groups", "list_stream_groups"], "Names of the stream groups.", || routing::get(stream_groups::list::handle))
        .answer(200, &[(JSON, "StreamGroupList")]),
    get("/v1/stream-groups/{group}/offsets", ["stream groups", "get_offsets"], "What a stream group has committed.", || routing::get(stream_groups::offsets::handle))
        .answer(200, &[(JSON, "Offsets")]),
    put("/v1/stream-groups/{group}/offsets", ["stream groups", "commit_offsets"], "Commit offsets; partitions that are not named keep theirs.", || routing::put(stream_groups::commit::handle))
        .body(&[(JSON, "Offsets")]).answer(200, &[(JSON, "Offsets")]),
    post("/v1/stream-groups/{group}/seek", ["stream groups", "seek_stream_group"], "Set committed offsets by meaning.", || routing::post(stream_groups::seek::handle))
        .body(&[(JSON, "SeekStreamInput")]).answer(200, &[(JSON, "Offsets")]),
    delete("/v1/stream-groups/{group}", ["stream groups", "delete_stream_group"], "Forget a stream group's committed offsets.", || routing::delete(stream_groups::delete::handle))
        .answer(204, &[]),
];

/// The router of the table, with problems for what is not in it.
pub(super) fn router(app: App) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, (route.handler)());
    }
    router.fallback(not_found).method_not_allowed_fallback(wrong_method).with_state(app)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(Code::RouteNotFound, format!("there is nothing at `{}`; see /docs for what there is", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let taken: Vec<String> =
        ROUTES.iter().filter(|route| matches(route.path, uri.path())).map(|route| route.method.to_uppercase()).collect();
    Problem::new(Code::MethodNotAllowed, format!("`{}` does not take {method}, but {}", uri.path(), taken.join(", ")))
}

/// Whether a path is of the form of a route.
fn matches(route: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (route.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(text)) if part == text || part.starts_with('{') => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_one_name_and_one_place() {
        for (at, route) in ROUTES.iter().enumerate() {
            for other in &ROUTES[at + 1..] {
                assert_ne!(route.id, other.id);
                assert!((route.method, route.path) != (other.method, other.path), "{}", route.path);
            }
        }
    }

    #[test]
    fn forms_are_matched_part_by_part() {
        assert!(matches("/v1/topics/{topic}", "/v1/topics/a"));
        assert!(!matches("/v1/topics/{topic}", "/v1/topics/a/records"));
        assert!(!matches("/v1/topics", "/v1/topic"));
    }
}
