//! Tables of record bodies: what is taken, byte for byte, and what is refused, field by field.

use super::*;
use crate::broker::Record;
use crate::http::record_json::RecordJson;

fn one(body: &'static str) -> Result<NewRecord, Problem> {
    document(&Bytes::from_static(body.as_bytes()), TopicField::Refused).map(|mut all| all.remove(0).1)
}

#[test]
fn values_keep_their_bytes() {
    for (body, expected) in [
        (r#"{"value":"text"}"#, Some(&b"text"[..])),
        (r#"{"value":"a\u0041\n"}"#, Some(b"aA\n")),
        (r#"{"value": {"b": 1.0, "a":[ ] } }"#, Some(br#"{"b": 1.0, "a":[ ] }"#)),
        (r#"{"value":1e2}"#, Some(b"1e2")),
        (r#"{"value":false}"#, Some(b"false")),
        (r#"{"value_base64":"/wA="}"#, Some(b"\xff\x00")),
        (r#"{"value":null}"#, None),
        (r#"{"value":""}"#, Some(b"")),
    ] {
        assert_eq!(one(body).unwrap().value.as_deref(), expected, "{body}");
    }
}

#[test]
fn a_full_record_is_decoded() {
    let record =
        one(r#"{"partition":3,"key":"k","value":1,"headers":{"b":"2","a":null},"timestamp":"1970-01-01T00:00:01Z","id":"i-1"}"#).unwrap();
    assert_eq!(record.partition, Some(3));
    assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(record.timestamp_ms, Some(1000));
    assert_eq!(record.idempotency_key.as_deref(), Some(&b"i-1"[..]));
    let headers: Vec<_> = record.headers.iter().map(|h| (&*h.name, h.value.as_deref())).collect();
    assert_eq!(headers, [("b", Some(&b"2"[..])), ("a", None)]);
}

#[test]
fn all_shapes_of_a_document_give_the_same_records() {
    for body in [r#"{"records":[{"value":1},{"value":2}]}"#, r#" [{"value":1},{"value":2}]"#] {
        let records = document(&Bytes::from_static(body.as_bytes()), TopicField::Refused).unwrap();
        assert_eq!(records.len(), 2, "{body}");
        assert_eq!(records[1].1.value.as_deref(), Some(&b"2"[..]));
    }
    let per_line = lines(&Bytes::from_static(b"{\"value\":1}\r\n\n{\"value\":2}"), TopicField::Refused).unwrap();
    assert_eq!(per_line.len(), 2);
}

#[test]
fn what_is_wrong_is_named() {
    for (body, code, field) in [
        (r"{", Code::MalformedJson, None),
        (r"[1]", Code::InvalidBody, None),
        (r#"{"key":"k"}"#, Code::InvalidBody, Some("value")),
        (r#"{"value":1,"key":2}"#, Code::InvalidBody, Some("key")),
        (r#"{"value":1,"key":"a","key_base64":"YQ=="}"#, Code::InvalidBody, Some("key_base64")),
        (r#"{"value_base64":"?"}"#, Code::InvalidBody, Some("value_base64")),
        (r#"{"value":1,"partition":-1}"#, Code::InvalidBody, Some("partition")),
        (r#"{"value":1,"timestamp":"soon"}"#, Code::InvalidBody, Some("timestamp")),
        (r#"{"value":1,"headers":{"a":1}}"#, Code::InvalidBody, Some("headers")),
        (r#"{"value":1,"headers":7}"#, Code::InvalidBody, Some("headers")),
        (r#"{"value":1,"id":5}"#, Code::InvalidBody, Some("id")),
        (r#"{"value":1,"topic":"t"}"#, Code::InvalidBody, Some("topic")),
        (r#"{"value":1,"valeu":2}"#, Code::InvalidBody, Some("valeu")),
        (r#"{"value":1,"value":2}"#, Code::InvalidBody, Some("value")),
    ] {
        let problem = one(body).unwrap_err();
        assert_eq!((problem.code(), problem.field_name()), (code, field), "{body}: {}", problem.detail());
    }
    let second = document(&Bytes::from_static(br#"[{"value":1},{"value":1,"key":0}]"#), TopicField::Refused).unwrap_err();
    assert!(second.detail().starts_with("record 1:"), "{}", second.detail());
}

#[test]
fn batches_name_their_topics() {
    let body = Bytes::from_static(br#"{"records":[{"topic":"a","value":1},{"topic":"b","value":2}]}"#);
    let topics: Vec<_> = document(&body, TopicField::Required).unwrap().into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(topics, ["a", "b"]);
    assert_eq!(document(&Bytes::from_static(br#"{"value":1}"#), TopicField::Required).unwrap_err().field_name(), Some("topic"));
}

#[test]
fn raw_lines_are_the_values() {
    let body = Bytes::from_static(b"{\"u\":{\"id\": 7}, \"e\":\"x\"}\n\n{\"e\":\"y\\u0041\"}\n");
    let records = raw_lines(&body, RawFields { key: Some("u.id"), id: Some("e") }).unwrap();
    assert_eq!(records.len(), 2);
    let first = &records[0].1;
    assert_eq!(first.value.as_deref(), Some(&b"{\"u\":{\"id\": 7}, \"e\":\"x\"}"[..]));
    assert_eq!(first.key.as_deref(), Some(&b"7"[..]));
    assert_eq!(records[1].1.key, None);
    assert_eq!(records[1].1.idempotency_key.as_deref(), Some(&b"yA"[..]));
    let problem = raw_lines(&body, RawFields { key: None, id: Some("u.id") }).unwrap_err();
    assert_eq!(problem.field_name(), Some("u.id"));
    assert!(raw_lines(&Bytes::from_static(b"not json, but a value"), RawFields::default()).is_ok());
}

#[test]
fn headers_survive_the_way_out_and_back() {
    let headers = vec![
        Header { name: "a".into(), value: Some("1".into()) },
        Header { name: "a".into(), value: None },
        Header { name: "raw".into(), value: Some(Bytes::from_static(b"\xff")) },
    ];
    let record = Record { topic: "t".into(), partition: 0, offset: 0, timestamp_ms: 0, key: None, value: None, headers: headers.clone() };
    let shown = serde_json::to_value(RecordJson(&record)).unwrap();
    let body = serde_json::json!({"value": null, "headers": shown["headers"], "headers_list": shown["headers_list"]}).to_string();
    let back = document(&Bytes::from(body), TopicField::Refused).unwrap().remove(0).1;
    assert_eq!(back.headers, headers);
}

#[test]
fn an_edit_replaces_only_what_it_names() {
    let edit = edited(&Bytes::from_static(br#"{"value":{"amount":5}}"#)).unwrap();
    assert_eq!(edit.value.as_deref(), Some(&br#"{"amount":5}"#[..]));
    assert!(edit.key.is_none() && edit.headers.is_empty());
    assert_eq!(edited(&Bytes::from_static(br#"{"partition":1}"#)).unwrap_err().field_name(), Some("partition"));
}
