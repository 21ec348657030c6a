//! `POST /v1/topics`: creates a topic. The body is its name beside its settings.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};

use crate::broker::TopicSettings;
use crate::http::error::Problem;
use crate::http::extract::{Json, reply};
use crate::http::json;
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Json(body): Json<Map<String, Value>>) -> Result<Response, Problem> {
    let (name, settings) = decode(body)?;
    let topic = app.broker.create_topic(&name, settings).await?;
    Ok(reply(StatusCode::CREATED, &topic))
}

fn decode(mut body: Map<String, Value>) -> Result<(String, TopicSettings), Problem> {
    let Some(Value::String(name)) = body.remove("name") else {
        return Err(Problem::field("name", "is missing or not a string"));
    };
    let settings = serde_json::from_value(Value::Object(body)).map_err(|error| json::problem(&error))?;
    Ok((name, settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::error::Code;

    fn of(body: Value) -> Result<(String, TopicSettings), Problem> {
        decode(body.as_object().unwrap().clone())
    }

    #[test]
    fn settings_stand_beside_the_name() {
        let (name, settings) = of(serde_json::json!({"name": "a", "partitions": 3, "retention_ms": null})).unwrap();
        assert_eq!(name, "a");
        assert_eq!(settings, TopicSettings { partitions: 3, retention_ms: None, ..TopicSettings::default() });
        assert_eq!(of(serde_json::json!({})).unwrap_err().field_name(), Some("name"));
        let unknown = of(serde_json::json!({"name": "a", "partition": 3})).unwrap_err();
        assert_eq!(unknown.code(), Code::InvalidBody);
        assert!(unknown.detail().contains("`partition`"), "{}", unknown.detail());
    }
}
