//! Doors for the fuzzers to what decodes bytes from outside. No part of the API: hidden, and free to change.

use std::path::Path;

use crate::broker;
use crate::config::{Config, Sources};
pub use crate::http::fuzzing::{Body, decode_body};

/// Decodes an event of the broker, and a key of its state, from a log or a checkpoint.
pub fn decode_event(tag: u8, payload: &[u8]) {
    broker::fuzz_decode(tag, payload);
}

/// Reads the text of a configuration file; answers with the error in words.
pub fn read_config(text: &str) -> Result<(), String> {
    let sources = Sources::default().with_file_text(Path::new("onelog.toml"), text).map_err(|error| error.to_string())?;
    let config = Config::load(&sources).map_err(|error| error.to_string())?;
    config.check().map_err(|error| error.to_string())
}
