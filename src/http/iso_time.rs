//! Times as people write them, ISO 8601, to milliseconds since the epoch. A time without a zone is UTC.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// `None` when the text is not a time.
pub fn millis(text: &str) -> Option<i64> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_millisecond());
    }
    let time: DateTime = text.parse().ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_optional() {
        for (text, expected) in [
            ("1970-01-01T00:00:01Z", Some(1_000)),
            ("1970-01-01T00:00:01", Some(1_000)),
            ("1970-01-01 00:00:01.5", Some(1_500)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01T01:00:00+0100", Some(0)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("2024-01-15T10:30:00.123456", Some(1_705_314_600_123)),
            ("1970-01-02", Some(86_400_000)),
            ("1705314600", None),
            ("2024-13-01T00:00:00", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
    }
}
