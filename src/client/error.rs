//! What can go wrong between a command and its server, in words that say what to do.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// Why a call has no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{server}` is not a server address; write http://HOST:PORT (https is not in this version)")]
    InvalidServer { server: String },
    /// Nothing was sent.
    #[error("cannot reach {server}: {why}; is onelog running? start it with `onelog serve`")]
    Unreachable { server: String, why: String },
    /// The request may or may not have been carried out.
    #[error("the connection to {server} was lost before the answer: {why}")]
    Lost { server: String, why: String },
    /// The server understood and said no.
    #[error("{0}")]
    Refused(Problem),
    #[error("{server} answered what no onelog answers ({what}); is `--server` right?")]
    Unexpected { server: String, what: String },
}

impl ClientError {
    /// The refusal, when it is one with this status.
    #[must_use]
    pub fn refusal(&self, status: u16) -> Option<&Problem> {
        match self {
            Self::Refused(problem) if problem.status == status => Some(problem),
            _ => None,
        }
    }
}

/// An `application/problem+json` body (RFC 9457) and the status and `Retry-After` that came with it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    /// Stable name of the failure.
    pub code: String,
    /// What happened, and what to do.
    pub detail: String,
    /// Which record of the request is meant, counted from 0.
    pub index: Option<usize>,
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.detail.is_empty() { &self.title } else { &self.detail };
        match (text.is_empty(), self.code.is_empty()) {
            (true, _) => write!(f, "the server answered {} without saying why", self.status),
            (false, true) => write!(f, "{text} ({})", self.status),
            (false, false) => write!(f, "{text} ({} {})", self.status, self.code),
        }
    }
}
