//! The HTTP front end over real sockets, in front of a broker that is gone when the test ends.

#[path = "http_api/client.rs"]
mod client;
#[path = "http_api/events.rs"]
mod events;
#[path = "http_api/groups.rs"]
mod groups;
#[path = "http_api/records.rs"]
mod records;
#[path = "http_api/wire.rs"]
mod wire;
