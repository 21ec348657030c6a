//! What a handler says about a delivery, and how the results handlers like to return become that.

use std::fmt::Display;
use std::time::Duration;

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acked: the group never sees the record again.
    Done,
    /// Given out again after `delay`, or after the group's backoff; the last attempt the group allows goes to the dead letters.
    Retry { reason: String, delay: Option<Duration> },
    /// To the dead letters at once: trying again is pointless.
    DeadLetter { reason: String },
}

impl Outcome {
    /// Try again when the group's backoff says so.
    #[must_use]
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), delay: None }
    }

    /// Try again after `delay`.
    #[must_use]
    pub fn retry_after(delay: Duration, reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), delay: Some(delay) }
    }

    #[must_use]
    pub fn dead_letter(reason: impl Into<String>) -> Self {
        Self::DeadLetter { reason: reason.into() }
    }
}

/// A handler that cannot fail.
impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Done
    }
}

/// A handler that uses `?` and leaves failures to the retries.
impl<E: Display> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Self {
        result.map(|()| Self::Done).into()
    }
}

/// A handler that uses `?` and knows hopeless cases besides.
impl<E: Display> From<Result<Self, E>> for Outcome {
    fn from(result: Result<Self, E>) -> Self {
        // The alternate form makes error types with causes, such as anyhow's, tell all of them.
        result.unwrap_or_else(|error| Self::retry(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_become_outcomes() {
        assert_eq!(Outcome::from(()), Outcome::Done);
        assert_eq!(Outcome::from(Ok::<(), String>(())), Outcome::Done);
        assert_eq!(Outcome::from(Err::<(), _>("no route")), Outcome::retry("no route"));
        assert_eq!(Outcome::from(Ok::<_, String>(Outcome::dead_letter("no amount"))), Outcome::dead_letter("no amount"));
        let with_cause = anyhow::anyhow!("refused").context("cannot reach the database");
        assert_eq!(Outcome::from(Err::<(), _>(with_cause)), Outcome::retry("cannot reach the database: refused"));
    }
}
