//! Failures as `application/problem+json` (RFC 9457): one table of stable codes, one exhaustive match of the broker's errors.
//!
//! `code` is what programs compare, `detail` tells people what happened and what to do. Codes never change their meaning.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::broker::{BrokerError, LeaseError};

macro_rules! codes {
    ($($variant:ident $code:literal $status:literal $title:literal;)*) => {
        /// The stable name of a failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($variant,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As it is written in `code`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// A sentence that is the same for every failure of this code.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    MalformedJson       "malformed_json"        400 "The body is not JSON";
    InvalidPath         "invalid_path"          400 "A part of the path is malformed";
    InvalidQuery        "invalid_query"         400 "A query parameter is malformed";
    InvalidRequest      "invalid_request"       400 "The request cannot be carried out as it stands";
    RouteNotFound       "route_not_found"       404 "There is nothing at this path";
    TopicNotFound       "topic_not_found"       404 "The topic does not exist";
    PartitionNotFound   "partition_not_found"   404 "The partition does not exist";
    GroupNotFound       "group_not_found"       404 "The consumer group does not exist";
    DeadLetterNotFound  "dead_letter_not_found" 404 "There is no such dead letter";
    MethodNotAllowed    "method_not_allowed"    405 "The path does not take this method";
    NotAcceptable       "not_acceptable"        406 "The answer has none of the accepted types";
    BodyTimeout         "body_timeout"          408 "The body did not arrive in time";
    TopicExists         "topic_exists"          409 "The topic exists already";
    GroupExists         "group_exists"          409 "The consumer group exists with other settings";
    IdempotencyConflict "idempotency_conflict"  409 "The idempotency key was used with another body";
    UnexpectedOffset    "unexpected_offset"     409 "The partition moved on";
    LeaseStale          "lease_stale"           409 "The lease ran out";
    LeaseUnknown        "lease_unknown"         409 "There is no such lease";
    BodyTooLarge        "body_too_large"        413 "The body is too large";
    RecordTooLarge      "record_too_large"      413 "A record is too large for its topic";
    BatchTooLarge       "batch_too_large"       413 "The records do not fit one commit";
    UnsupportedType     "unsupported_media_type" 415 "The body has a type this path does not take";
    RecordsLost         "records_lost"          410 "The records were lost to damage";
    OffsetOutOfRange    "offset_out_of_range"   416 "The offset is outside what is stored";
    InvalidBody         "invalid_body"          422 "A field of the body is wrong";
    InvalidName         "invalid_name"          422 "A name is malformed";
    InvalidSetting      "invalid_setting"       422 "A setting is wrong";
    Overloaded          "overloaded"            429 "Too much is waiting to be written";
    Damaged             "damaged"               500 "Stored data is damaged";
    DiskFull            "disk_full"             503 "The disk is full";
    StorageFailed       "storage_failed"        503 "Storage failed";
    Closing             "closing"               503 "onelog is shutting down";
}

/// Milliseconds after which a client should try again when the broker names no time itself.
const RETRY_DISK_FULL_MS: u64 = 10_000;
const RETRY_STORAGE_FAILED_MS: u64 = 30_000;
const RETRY_CLOSING_MS: u64 = 1_000;

/// A failure on its way out. Boxed: the way without failures should not carry its size.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem(Box<Facts>);

#[derive(Debug, Clone, PartialEq)]
struct Facts {
    code: Code,
    detail: String,
    index: Option<usize>,
    field: Option<String>,
    retry_after_ms: Option<u64>,
    outcomes: Option<serde_json::Value>,
}

#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<&'a serde_json::Value>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Facts { code, detail: detail.into(), index: None, field: None, retry_after_ms: None, outcomes: None }))
    }

    /// A field of the body that is not what it must be.
    pub fn field(name: &str, why: impl std::fmt::Display) -> Self {
        let mut problem = Self::new(Code::InvalidBody, format!("`{name}` {why}"));
        problem.0.field = Some(name.to_owned());
        problem
    }

    /// Names the field that is meant.
    #[must_use]
    pub fn about(mut self, field: &str) -> Self {
        self.0.field = Some(field.to_owned());
        self
    }

    /// Says which record of the request is meant, counted from 0.
    #[must_use]
    pub fn at_record(mut self, index: usize) -> Self {
        self.0.index = Some(index);
        self.0.detail = format!("record {index}: {}", self.0.detail);
        self
    }

    #[must_use]
    pub fn with_outcomes(mut self, outcomes: serde_json::Value) -> Self {
        self.0.outcomes = Some(outcomes);
        self
    }

    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    #[must_use]
    pub fn field_name(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    pub fn retry_after(mut self, ms: u64) -> Self {
        self.0.retry_after_ms = Some(ms);
        self
    }

    fn index(mut self, index: usize) -> Self {
        self.0.index = Some(index);
        self
    }

    fn body(&self) -> ProblemBody<'_> {
        let code = self.0.code;
        ProblemBody {
            // Resolves at any onelog, also without internet: the docs page lists every code.
            r#type: format!("/docs#{}", code.name()),
            title: code.title(),
            status: code.status(),
            code: code.name(),
            detail: &self.0.detail,
            index: self.0.index,
            field: self.0.field.as_deref(),
            retry_after_ms: self.0.retry_after_ms,
            outcomes: self.0.outcomes.as_ref(),
        }
    }
}

/// Goes with the answer to a failure that is ours, for the log; never sent.
#[derive(Debug, Clone)]
pub struct Fault {
    pub code: Code,
    pub detail: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(ms) = self.0.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
        }
        if status.is_server_error() {
            response.extensions_mut().insert(Fault { code: self.0.code, detail: self.0.detail });
        }
        response
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        use BrokerError as E;
        let said = error.to_string();
        let with = |code, hint: &str| Self::new(code, format!("{said}; {hint}"));
        match error {
            E::TopicNotFound { .. } => with(Code::TopicNotFound, "create it with POST /v1/topics"),
            E::TopicExists { .. } => with(Code::TopicExists, "read it with GET or change it with PATCH /v1/topics/{topic}"),
            E::PartitionNotFound { .. } => with(Code::PartitionNotFound, "add partitions with PATCH /v1/topics/{topic}"),
            E::GroupNotFound { .. } => with(Code::GroupNotFound, "create it with PUT /v1/topics/{topic}/groups/{group}"),
            E::GroupExists { .. } => with(Code::GroupExists, "change it with PATCH /v1/topics/{topic}/groups/{group}"),
            E::DeadLetterNotFound { .. } => with(Code::DeadLetterNotFound, "it may be redriven or purged; list what is left"),
            E::InvalidName { .. } => Self::new(Code::InvalidName, said),
            E::InvalidSetting { setting, .. } => {
                let mut problem = Self::new(Code::InvalidSetting, said);
                problem.0.field = Some(setting.to_owned());
                problem
            }
            E::InvalidRequest(_) => Self::new(Code::InvalidRequest, said),
            E::RecordTooLarge { index, .. } => {
                with(Code::RecordTooLarge, "nothing was stored; raise the topic's record_bytes_max or send less").index(index)
            }
            E::BatchTooLarge { .. } => Self::new(Code::BatchTooLarge, said),
            E::RecordsLost { .. } => Self::new(Code::RecordsLost, error.to_string()),
            E::OffsetOutOfRange { .. } => with(Code::OffsetOutOfRange, "read from=earliest or from=latest"),
            E::IdempotencyConflict { index, .. } => {
                with(Code::IdempotencyConflict, "nothing was stored; send the first body again or take a new key").index(index)
            }
            E::UnexpectedOffset { .. } => with(Code::UnexpectedOffset, "nothing was stored; read what was added and decide again"),
            E::Overloaded { retry_after_ms } => Self::new(Code::Overloaded, said).retry_after(retry_after_ms),
            E::DiskFull => Self::new(Code::DiskFull, said).retry_after(RETRY_DISK_FULL_MS),
            E::StorageFailed { .. } | E::CannotOpen { .. } => Self::new(Code::StorageFailed, said).retry_after(RETRY_STORAGE_FAILED_MS),
            E::Damaged { .. } => with(Code::Damaged, "stop onelog and run `onelog check` on its directory"),
            E::Closing => with(Code::Closing, "try again when it is back").retry_after(RETRY_CLOSING_MS),
        }
    }
}

/// The code of a lease that could not be settled.
#[must_use]
pub const fn lease_code(error: LeaseError) -> Code {
    match error {
        LeaseError::Stale => Code::LeaseStale,
        LeaseError::Unknown => Code::LeaseUnknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_are_failures() {
        for (at, code) in Code::ALL.iter().enumerate() {
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(Code::ALL.iter().skip(at + 1).all(|other| other.name() != code.name()), "{code:?}");
        }
    }

    #[test]
    fn waiting_is_told_in_whole_seconds_rounded_up() {
        let response = Problem::from(BrokerError::Overloaded { retry_after_ms: 1_200 }).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn a_problem_names_record_and_field() {
        let problem = Problem::field("key", "must be a string").at_record(3);
        let body = serde_json::to_value(problem.body()).unwrap();
        assert_eq!(body["index"], 3);
        assert_eq!(body["field"], "key");
        assert_eq!(body["code"], "invalid_body");
        assert_eq!(body["status"], 422);
        assert_eq!(body["detail"], "record 3: `key` must be a string");
    }
}
