//! Which of the offered types the client accepts. Weights are not compared: the first offer that is accepted wins.

use axum::http::{HeaderMap, header};

use super::error::{Code, Problem};

/// The shape of a list of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One JSON document.
    Document,
    /// One JSON object per line.
    Lines,
}

pub const NDJSON: &str = "application/x-ndjson";

/// Lines when asked for by name, a document otherwise; a failure when neither is accepted.
pub fn shape(headers: &HeaderMap) -> Result<Shape, Problem> {
    let mut document = None;
    for accepted in headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')) {
        let essence = accepted.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            NDJSON | "application/ndjson" | "application/jsonl" => return Ok(Shape::Lines),
            "*/*" | "application/*" | "application/json" => document = Some(true),
            _ => document = document.or(Some(false)),
        }
    }
    if document.unwrap_or(true) {
        return Ok(Shape::Document);
    }
    Err(Problem::new(Code::NotAcceptable, format!("this path answers with application/json or {NDJSON}; accept one of them")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn lines_are_an_explicit_choice() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(text));
            shape(&headers)
        };
        assert_eq!(shape(&HeaderMap::new()).unwrap(), Shape::Document);
        assert_eq!(of("*/*").unwrap(), Shape::Document);
        assert_eq!(of("text/html, application/json;q=0.5").unwrap(), Shape::Document);
        assert_eq!(of("application/x-ndjson, */*").unwrap(), Shape::Lines);
        assert_eq!(of("text/html").unwrap_err().code(), Code::NotAcceptable);
    }
}
