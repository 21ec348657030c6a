//! JSON as bytes: checks it before it is read, and takes fields out of it without building trees.
//!
//! Everything here keeps to the received text, so that what is stored is what was sent. Depth is checked once for all
//! readers, because skipping a value (unlike building it) has no limit of its own.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{Code, Problem};

/// Deepest nesting of objects and arrays in a body. Below the limit of `serde_json` itself (128).
pub const DEPTH_MAX: usize = 100;

/// The body as text, if it is UTF-8 and not nested too deeply.
pub fn text(body: &[u8]) -> Result<&str, Problem> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Problem::new(Code::MalformedJson, format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
    if too_deep(body) {
        return Err(Problem::new(Code::MalformedJson, format!("the body is nested deeper than {DEPTH_MAX} levels; flatten it")));
    }
    Ok(text)
}

/// Reads a value. Wrong syntax is a malformed body, a wrong type or an unknown field an invalid one.
pub fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| problem(&error))
}

/// As [`read`], for a value made of `what` already parsed.
pub fn problem(error: &serde_json::Error) -> Problem {
    let code = if error.is_data() { Code::InvalidBody } else { Code::MalformedJson };
    let detail = error.to_string();
    let problem = Problem::new(code, detail.as_str());
    match field_of(&detail) {
        Some(field) => problem.about(field),
        None => problem,
    }
}

/// The field a complaint of serde is about. It tells its name in words only.
fn field_of(detail: &str) -> Option<&str> {
    let after = ["unknown field `", "missing field `", "duplicate field `"].iter().find_map(|words| detail.strip_prefix(words))?;
    after.split_once('`').map(|(field, _)| field)
}

fn too_deep(body: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The text of a JSON string; `None` for any other value. Borrows when nothing is escaped.
pub fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = raw.get();
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        // A lone surrogate is JSON but not text; it cannot be told apart from a wrong type here and need not be.
        return serde_json::from_str::<String>(quoted).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// The number if the value is a whole one that fits.
pub fn integer<T: std::str::FromStr>(raw: &RawValue) -> Option<T> {
    raw.get().parse().ok()
}

/// The value at a path of object fields separated by dots; `None` when a part of it is missing.
pub fn at_path<'a>(text: &'a str, path: &str) -> Result<Option<&'a RawValue>, serde_json::Error> {
    let (mut inside, mut found) = (text, None);
    for name in path.split('.') {
        if !inside.trim_start().starts_with('{') {
            return Ok(None);
        }
        let mut reader = serde_json::Deserializer::from_str(inside);
        found = serde::Deserializer::deserialize_map(&mut reader, FindField { name })?;
        reader.end()?;
        let Some(raw) = found else { return Ok(None) };
        inside = raw.get();
    }
    Ok(found)
}

struct FindField<'n> {
    name: &'n str,
}

impl<'de> Visitor<'de> for FindField<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if found.is_none() && name == self.name {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// An array of at most `MAX` values: the limit holds while reading, before memory is spent on more.
#[derive(Debug)]
pub struct AtMost<T, const MAX: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(AtMostVisitor(PhantomData))
    }
}

struct AtMostVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMostVisitor<T, MAX> {
    type Value = AtMost<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {MAX} values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = from.next_element()? {
            if values.len() == MAX {
                return Err(serde::de::Error::invalid_length(MAX + 1, &self));
            }
            values.push(value);
        }
        Ok(AtMost(values))
    }
}

/// Tells a field that is `null` from one that is absent.
pub fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_levels_are_refused_and_brackets_in_strings_are_not_levels() {
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        assert_eq!(text(deep.as_bytes()).unwrap_err().code(), Code::MalformedJson);
        let flat = format!("\"\\\"{}\"", "[".repeat(1000));
        assert!(text(flat.as_bytes()).is_ok());
        let fits = "[".repeat(DEPTH_MAX) + &"]".repeat(DEPTH_MAX);
        assert!(text(fits.as_bytes()).is_ok());
    }

    #[test]
    fn syntax_and_data_are_told_apart() {
        assert_eq!(read::<Vec<u32>>("[1").unwrap_err().code(), Code::MalformedJson);
        assert_eq!(read::<u32>("\"x\"").unwrap_err().code(), Code::InvalidBody);
        assert_eq!(text(b"\xff").unwrap_err().code(), Code::MalformedJson);
        #[derive(serde::Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct Named {
            #[serde(rename = "name")]
            _name: String,
        }
        assert_eq!(read::<Named>(r#"{"nmae":"x"}"#).unwrap_err().field_name(), Some("nmae"));
        assert_eq!(read::<Named>("{}").unwrap_err().field_name(), Some("name"));
        assert_eq!(read::<Named>(r#"{"name":1}"#).unwrap_err().field_name(), None);
    }

    #[test]
    fn paths_lead_to_the_exact_text() {
        let body = r#"{"a.b":0,"a":{"b":{"c": 1.50 },"d":"x\u0041"}}"#;
        assert_eq!(at_path(body, "a.b.c").unwrap().unwrap().get(), "1.50");
        assert_eq!(at_path(body, "a.b").unwrap().unwrap().get(), r#"{"c": 1.50 }"#);
        assert_eq!(string(at_path(body, "a.d").unwrap().unwrap()).unwrap(), "xA");
        assert!(at_path(body, "a.x.y").unwrap().is_none());
        assert!(at_path("[1]", "a").unwrap().is_none());
        assert!(at_path("{\"a\":1} x", "a").is_err());
    }

    #[test]
    fn an_array_stops_at_its_limit() {
        assert_eq!(read::<AtMost<u8, 3>>("[1,2,3]").unwrap().0, [1, 2, 3]);
        assert_eq!(read::<AtMost<u8, 3>>("[1,2,3,4]").unwrap_err().code(), Code::InvalidBody);
    }
}
