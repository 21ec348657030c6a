//! Path, query and JSON body as types, with failures told as problems instead of axum's plain text.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::body;
use super::error::{Code, Problem};
use super::json;
use super::state::App;

/// Parts of the path.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, app)
            .await
            .map(|path| Self(path.0))
            .map_err(|error: PathRejection| Problem::new(Code::InvalidPath, error.body_text()))
    }
}

/// Query parameters.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        query(&parts.uri).map(Self)
    }
}

/// The query of an address as a type.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    axum::extract::Query::try_from_uri(uri)
        .map(|query| query.0)
        .map_err(|error| Problem::new(Code::InvalidQuery, format!("{}; see /docs for what this path takes", error.body_text())))
}

/// A JSON body. An empty one counts as `{}`: where every field has a default, nothing need be sent.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let typed = body::require_json(request.headers());
        let body = body::read(&app.config, &app.budget, request).await?;
        if body.is_empty() {
            return json::read("{}").map(Self);
        }
        typed?;
        json::read(json::text(&body)?).map(Self)
    }
}

/// An answer in JSON.
pub fn reply(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        // Our own types serialize; a failure here is a fault of onelog.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// 200 and JSON.
pub fn ok(body: &impl Serialize) -> Response {
    reply(StatusCode::OK, body)
}
