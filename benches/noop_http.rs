//! A no-op axum POST handler: the bar for the HTTP front end. Prints its address and serves until it is ended.
//!
//! `cargo bench --bench noop_http`, then point `onelog bench --server URL --path /events` or any load generator at it and at onelog in turn.

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;

async fn noop(_body: Bytes) -> StatusCode {
    StatusCode::ACCEPTED
}

#[tokio::main]
async fn main() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("http://{}", listener.local_addr().expect("bound"));
    axum::serve(listener, Router::new().route("/events", post(noop))).await.expect("served");
}
