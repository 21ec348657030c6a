//! The HTTP front end: translates requests to calls of the broker and answers back. Decides nothing and stores nothing.
//!
//! Life of a request: [`server`] accepts, `service` gives it its correlation id, [`routes`] finds the file under
//! `requests/` that decodes it, makes one call to the broker and encodes the answer. What is supported is the table in
//! [`routes`]; how the broker's failures look is the one match in [`error`].

mod body;
mod budget;
pub mod config;
mod correlation;
mod deadline;
pub mod error;
mod extract;
pub(crate) mod fuzzing;
mod iso_time;
mod json;
mod negotiate;
mod openapi;
mod place;
mod record_decode;
pub mod record_json;
mod requests;
pub mod routes;
pub mod server;
mod service;
pub mod state;

pub use config::HttpConfig;
pub use server::serve;
pub use state::HttpState;
