//! The OpenAPI 3.1 document, built from the table of routes, and the page that renders it.
//!
//! Schemas and parameters are written by hand, in `schemas.json` and `parameters.json`; tests hold them to the table.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::error::Code;
use super::routes::{Content, ROUTES, Route};

/// The page at `/docs`.
pub const PAGE: &str = include_str!("docs.html");

const SCHEMAS: &str = include_str!("schemas.json");
const PARAMETERS: &str = include_str!("parameters.json");

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(build().to_string()));

/// The document, built once.
pub fn document() -> Bytes {
    DOCUMENT.clone()
}

fn build() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = operation(route);
    }
    let codes: Vec<Value> =
        Code::ALL.iter().map(|code| json!({"code": code.name(), "status": code.status(), "title": code.title()})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "onelog",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": parsed(SCHEMAS),
            "parameters": parsed(PARAMETERS),
            "responses": {
                "Problem": {
                    "description": "What went wrong and what to do (RFC 9457). Programs compare `code`.",
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
            },
        },
        "x-problem-codes": codes,
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": route.id,
        "tags": [route.tag],
        "summary": route.summary,
        "responses": {
            (route.status.to_string()): answer(route),
            "default": {"$ref": "#/components/responses/Problem"},
        },
    });
    let parameters: Vec<Value> = in_path(route.path)
        .map(|name| reference("parameters", &format!("path_{name}")))
        .chain(route.parameters.iter().map(|name| reference("parameters", name)))
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if !route.body.is_empty() {
        operation["requestBody"] = json!({"content": contents(route.body)});
    }
    operation
}

fn answer(route: &Route) -> Value {
    if route.answer.is_empty() {
        return json!({"description": "Done."});
    }
    json!({"description": "Done.", "content": contents(route.answer)})
}

fn contents(contents: &[Content]) -> Value {
    contents
        .iter()
        .map(|(media_type, schema)| ((*media_type).to_owned(), json!({"schema": reference("schemas", schema)})))
        .collect::<Map<_, _>>()
        .into()
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

/// Names in braces.
fn in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// The files are part of the program: a test reads them, so that they cannot be wrong here.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{DeadLetterFilter, GroupSettings, RedriveRequest, TopicChange, TopicSettings};
    use std::collections::BTreeSet;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    match field {
                        Value::String(target) if name == "$ref" => _ = found.insert(target.clone()),
                        other => references(other, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_in_the_document_and_every_reference_resolves() {
        let document: Value = serde_json::from_slice(&super::document()).unwrap();
        for route in ROUTES {
            let operation = &document["paths"][route.path][route.method];
            assert_eq!(operation["operationId"], route.id);
            let parameters = operation["parameters"].as_array().map_or(0, Vec::len);
            assert_eq!(parameters, in_path(route.path).count() + route.parameters.len(), "{}", route.id);
        }
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for target in &found {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        for kind in ["schemas", "parameters"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                assert!(found.contains(&format!("#/components/{kind}/{name}")), "{kind} {name} is used nowhere");
            }
        }
    }

    /// Fields of a serialized default, against the properties its schema names.
    fn same_fields(schema: &str, value: &impl serde::Serialize) {
        let document: Value = serde_json::from_slice(&super::document()).unwrap();
        let properties = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
        let named: BTreeSet<&String> = properties.keys().collect();
        let value = serde_json::to_value(value).unwrap();
        let real: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(named, real, "{schema}");
    }

    #[test]
    fn settings_are_documented_field_by_field() {
        same_fields("TopicSettings", &TopicSettings::default());
        let change = TopicChange { retention_ms: Some(None), retention_bytes: Some(None), ..TopicChange::default() };
        same_fields("TopicChange", &change);
        same_fields("GroupSettings", &GroupSettings::default());
        same_fields("RetrySettings", &GroupSettings::default().retry);
        same_fields("DeadLetterFilter", &DeadLetterFilter::default());
        same_fields("RedriveInput", &RedriveRequest::default());
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for outside in ["http://", "https://", "src=", "@import", "//cdn"] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
    }
}
