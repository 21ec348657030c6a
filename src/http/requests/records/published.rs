//! How a publish is answered: where each record went, and what the ok is worth.

use axum::response::Response;
use serde::Serialize;

use crate::broker::{Durability, Produced};
use crate::http::extract::ok;

#[derive(Serialize)]
struct Published<'a> {
    records: &'a [Produced],
    /// The weakest among the records.
    durability: Durability,
}

/// The answer to a publish.
pub fn published(records: &[Produced]) -> Response {
    let lazy = records.iter().any(|record| record.durability == Durability::Lazy);
    ok(&Published { records, durability: if lazy { Durability::Lazy } else { Durability::Sync } })
}
