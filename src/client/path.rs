//! Paths and queries of the HTTP API, with names escaped so that no topic name can leave its place in the path.

use std::fmt::{Display, Write};

/// A path with its query.
#[derive(Debug, Clone)]
pub struct Path {
    text: String,
    queried: bool,
}

impl Path {
    /// Starts with fixed text, such as `/v1/topics`.
    #[must_use]
    pub fn new(fixed: &str) -> Self {
        Self { text: fixed.to_owned(), queried: false }
    }

    /// A topic's own path.
    #[must_use]
    pub fn topic(topic: &str) -> Self {
        Self::new("/v1/topics").then(topic)
    }

    /// A queue group's own path.
    #[must_use]
    pub fn group(topic: &str, group: &str) -> Self {
        Self::topic(topic).then("groups").then(group)
    }

    /// A partition's own path.
    #[must_use]
    pub fn partition(topic: &str, partition: u32) -> Self {
        Self::topic(topic).then("partitions").then(partition)
    }

    /// Adds one segment.
    #[must_use]
    pub fn then(mut self, segment: impl Display) -> Self {
        self.text.push('/');
        escape(&mut self.text, &segment.to_string());
        self
    }

    /// Adds one parameter when there is a value.
    #[must_use]
    pub fn query(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.text.push(if self.queried { '&' } else { '?' });
            self.queried = true;
            self.text.push_str(name);
            self.text.push('=');
            escape(&mut self.text, &value.to_string());
        }
        self
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Leaves the unreserved characters of RFC 3986 and writes the rest as `%XX`.
fn escape(to: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            to.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(to, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_segment() {
        let path = Path::topic("a/b?c").then("records").query("key_field", Some("user.id")).query("id_field", None::<&str>);
        assert_eq!(path.query("from", Some("a b")).as_str(), "/v1/topics/a%2Fb%3Fc/records?key_field=user.id&from=a%20b");
    }
}
