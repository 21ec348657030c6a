//! What became of each lease of a request: one answer for ack, nack, extend and release.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::broker::{LeaseId, Outcomes, Settled};
use crate::http::error::{Problem, lease_code};
use crate::http::extract::ok;
use crate::http::json::AtMost;

/// Most leases of one request.
pub const LEASES_MAX: usize = 10_000;

/// The body of requests that name leases and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeasesBody {
    leases: AtMost<LeaseId, LEASES_MAX>,
}

impl LeasesBody {
    pub fn leases(self) -> Vec<LeaseId> {
        self.leases.0
    }
}

#[derive(Serialize)]
struct OutcomeList {
    outcomes: Vec<Value>,
}

/// 200 with an outcome per lease; a problem when none of them could be settled.
pub fn answer(leases: &[LeaseId], outcomes: &Outcomes) -> Result<Response, Problem> {
    let told: Vec<Value> = leases.iter().zip(outcomes).map(|(lease, outcome)| tell(lease, outcome)).collect();
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    match outcomes.first() {
        Some(Err(first)) if failed == outcomes.len() => {
            let detail = format!("none of the {failed} leases could be settled; the first: {first}");
            Err(Problem::new(lease_code(*first), detail).with_outcomes(Value::Array(told)))
        }
        _ => Ok(ok(&OutcomeList { outcomes: told })),
    }
}

fn tell(lease: &LeaseId, outcome: &Result<Settled, crate::broker::LeaseError>) -> Value {
    let lease = lease.to_string();
    match outcome {
        Ok(Settled::Acked) => json!({"lease": lease, "result": "acked"}),
        Ok(Settled::Deferred { delay_ms }) => json!({"lease": lease, "result": "deferred", "delay_ms": delay_ms}),
        Ok(Settled::DeadLettered) => json!({"lease": lease, "result": "dead_lettered"}),
        Ok(Settled::Extended { visibility_ms }) => json!({"lease": lease, "result": "extended", "visibility_ms": visibility_ms}),
        Err(error) => json!({"lease": lease, "error": lease_code(*error).name(), "detail": error.to_string()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::LeaseError;
    use crate::http::error::Code;

    const LEASES: [LeaseId; 2] = [LeaseId { partition: 0, offset: 1, token: 2 }, LeaseId { partition: 0, offset: 2, token: 3 }];

    #[test]
    fn some_failures_are_told_per_lease_and_only_failures_are_a_conflict() {
        let mixed = vec![Ok(Settled::Acked), Err(LeaseError::Stale)];
        assert_eq!(answer(&LEASES, &mixed).unwrap().status(), 200);
        assert_eq!(tell(&LEASES[1], &mixed[1])["error"], "lease_stale");
        let none = vec![Err(LeaseError::Unknown), Err(LeaseError::Stale)];
        assert_eq!(answer(&LEASES, &none).unwrap_err().code(), Code::LeaseUnknown);
        assert_eq!(answer(&[], &vec![]).unwrap().status(), 200);
    }

    #[test]
    fn leases_are_read_as_they_are_written() {
        let body: LeasesBody = serde_json::from_str(r#"{"leases":["0-1-2"]}"#).unwrap();
        assert_eq!(body.leases(), LEASES[..1]);
        assert!(serde_json::from_str::<LeasesBody>(r#"{"leases":["0-1"]}"#).is_err());
    }
}
