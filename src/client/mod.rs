//! A small client of the HTTP API, as the commands use it: keeps connections alive, speaks JSON, and turns failures into
//! sentences. Never retries by itself: whether a repeat is safe is known only to the caller.

mod error;
mod path;
pub mod views;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::{ClientError, Problem};
pub use path::Path;

/// What a call answers.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

pub const JSON: &str = "application/json";
pub const NDJSON: &str = "application/x-ndjson";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any wait a command asks for: only a server that hangs is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// A server, by its base URL. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    base: String,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    pub path: Path,
    pub content_type: &'static str,
    pub accept: &'static str,
    pub body: Bytes,
}

impl Call {
    /// A request without a body that wants JSON.
    #[must_use]
    pub fn new(method: Method, path: Path) -> Self {
        Self { method, path, content_type: JSON, accept: JSON, body: Bytes::new() }
    }
}

impl Client {
    /// `server` is `http://HOST:PORT`; the scheme may be left out. Connects with the first call.
    pub fn new(server: &str) -> Result<Self> {
        let wrong = || ClientError::InvalidServer { server: server.to_owned() };
        let base = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        let uri: Uri = base.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
            return Err(wrong());
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let pool = Pool::builder(TokioExecutor::new()).build(connector);
        Ok(Self { pool, base: base.trim_end_matches('/').to_owned() })
    }

    /// The base URL, without a slash at the end.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.base
    }

    pub async fn get<T: DeserializeOwned>(&self, path: Path) -> Result<T> {
        self.send_json(Call::new(Method::GET, path)).await
    }

    pub async fn delete(&self, path: Path) -> Result<()> {
        self.send(Call::new(Method::DELETE, path)).await.map(drop)
    }

    /// Sends a JSON body and reads a JSON answer.
    pub async fn call<T: DeserializeOwned>(&self, method: Method, path: Path, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|why| self.unexpected(format!("request cannot be written: {why}")))?;
        self.send_json(Call { body: body.into(), ..Call::new(method, path) }).await
    }

    /// Sends any body; reads a JSON answer.
    pub async fn send_json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        self.decode(&self.send(call).await?)
    }

    /// Sends any body; answers with the body of a 2xx.
    pub async fn send(&self, call: Call) -> Result<Bytes> {
        let uri = format!("{}{}", self.base, call.path.as_str());
        let mut request = Request::builder().method(call.method).uri(uri).header(ACCEPT, call.accept);
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, call.content_type);
        }
        let request = request.body(Full::new(call.body)).map_err(|why| self.unexpected(why.to_string()))?;
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(request)).await;
        answered.unwrap_or_else(|_| Err(self.lost(&format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Bytes> {
        let answer = self.pool.request(request).await.map_err(|why| self.failed(&why))?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|why| self.lost(&root_cause(&why)))?.to_bytes();
        if head.status.is_success() { Ok(body) } else { Err(ClientError::Refused(read_problem(head.status, &head.headers, &body))) }
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        // A 204 stands for "nothing to say".
        let body = if body.is_empty() { b"null" } else { body };
        serde_json::from_slice(body).map_err(|why| self.unexpected(why.to_string()))
    }

    fn failed(&self, why: &hyper_util::client::legacy::Error) -> ClientError {
        if why.is_connect() {
            return ClientError::Unreachable { server: self.base.clone(), why: root_cause(why) };
        }
        self.lost(&root_cause(why))
    }

    fn lost(&self, why: &str) -> ClientError {
        ClientError::Lost { server: self.base.clone(), why: why.to_owned() }
    }

    fn unexpected(&self, what: String) -> ClientError {
        ClientError::Unexpected { server: self.base.clone(), what }
    }
}

/// The innermost error says what happened ("Connection refused"), the outer ones only where.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn read_problem(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Problem {
    let mut problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    problem.status = status.as_u16();
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    problem.retry_after = seconds.map(Duration::from_secs);
    problem
}
