//! Values of flags as people write them: durations, times, places in a topic, `name=value` pairs; and times as people read them.

use jiff::Timestamp;
use jiff::civil::DateTime;

use crate::broker::SeekTo;

/// Units of durations in milliseconds; `ms` before `m` and `s`.
const UNITS: [(&str, u64); 6] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 7 * 86_400_000)];

/// Milliseconds from `500ms`, `30s`, `5m`, `12h`, `7d`, `2w`, or a bare number of milliseconds.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a duration; write it like 500ms, 30s, 5m, 12h or 7d");
    let (number, unit) = UNITS.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit))).unwrap_or((text, 1));
    number.trim().parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or_else(wrong)
}

/// A bound that may be lifted: a duration or `none`.
pub fn duration_or_none(text: &str) -> Result<Bound, String> {
    if text == "none" { Ok(Bound(None)) } else { duration_ms(text).map(|ms| Bound(Some(ms))) }
}

/// A bound that may be lifted: a size or `none`.
pub fn size_or_none(text: &str) -> Result<Bound, String> {
    if text == "none" { Ok(Bound(None)) } else { crate::config::size::parse(text).map(|bytes| Bound(Some(bytes))) }
}

/// A number, or no bound at all. A type of its own because clap reads `Option` as "may be left out".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound(pub Option<u64>);

/// Bytes that fit 32 bits.
pub fn size_u32(text: &str) -> Result<u32, String> {
    let bytes = crate::config::size::parse(text)?;
    u32::try_from(bytes).map_err(|_| format!("`{text}` is more than {}", crate::config::size::show(u64::from(u32::MAX))))
}

/// Milliseconds since the epoch, from those or from ISO 8601. A time without a zone is UTC.
pub fn time_ms(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let zoned = text.parse::<Timestamp>().ok();
    let civil = || text.parse::<DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    zoned
        .or_else(civil)
        .map(Timestamp::as_millisecond)
        .ok_or_else(|| format!("`{text}` is not a time; write ISO 8601 (2025-01-31T12:00:00Z) or milliseconds since 1970"))
}

/// `earliest`, `latest`, `offset:N`, `time:T`.
pub fn place(text: &str) -> Result<SeekTo, String> {
    match text.split_once(':') {
        None if text == "earliest" => Ok(SeekTo::Earliest),
        None if text == "latest" => Ok(SeekTo::Latest),
        Some(("offset", number)) => number.parse().map(SeekTo::Offset).map_err(|_| format!("`{number}` is not an offset")),
        Some(("time", time)) => time_ms(time).map(SeekTo::Time),
        _ => Err(format!("`{text}` is not a place; write earliest, latest, offset:N or time:2025-01-31T12:00:00Z")),
    }
}

/// `name=value`; only the first `=` separates.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    if name.is_empty() { Err(format!("`{text}` has no name before the `=`")) } else { Ok((name.to_owned(), value.to_owned())) }
}

/// `partition-offset`, the name of a dead letter.
pub fn record_id(text: &str) -> Result<(u32, i64), String> {
    let parsed = text.split_once('-').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parsed.ok_or_else(|| format!("`{text}` is not PARTITION-OFFSET, such as 0-41"))
}

/// A time in UTC, to the millisecond.
pub fn show_time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| format!("{time:.3}"))
}

/// A duration in its largest whole unit.
pub fn show_duration(ms: u64) -> String {
    let fitting = UNITS.iter().rev().find(|(name, unit)| *name != "w" && ms != 0 && ms.is_multiple_of(*unit));
    fitting.map_or_else(|| format!("{ms}ms"), |(name, unit)| format!("{}{name}", ms / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("1500", 1_500), ("1500ms", 1_500), ("30s", 30_000), ("5m", 300_000), ("12h", 43_200_000), ("7d", 604_800_000)] {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        assert!(["", "s", "-1s", "1y", "99999999999999999w"].iter().all(|text| duration_ms(text).is_err()));
        assert_eq!([1_500, 30_000, 604_800_000, 0].map(show_duration), ["1500ms", "30s", "7d", "0ms"]);
    }

    #[test]
    fn times_with_and_without_zone() {
        assert_eq!(time_ms("1757681040792"), Ok(1_757_681_040_792));
        assert_eq!(time_ms("2025-09-12T12:44:00.792Z"), Ok(1_757_681_040_792));
        assert_eq!(time_ms("2025-09-12T14:44:00.792+02:00"), Ok(1_757_681_040_792));
        assert_eq!(time_ms("2025-09-12T12:44:00.792"), Ok(1_757_681_040_792));
        assert!(time_ms("yesterday").is_err());
        assert_eq!(show_time(1_757_681_040_792), "2025-09-12T12:44:00.792Z");
    }

    #[test]
    fn places_and_pairs() {
        assert_eq!(place("latest"), Ok(SeekTo::Latest));
        assert_eq!(place("offset:41"), Ok(SeekTo::Offset(41)));
        assert_eq!(place("time:1000"), Ok(SeekTo::Time(1_000)));
        assert!(place("41").is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("=b").is_err() && pair("a").is_err());
        assert_eq!(record_id("2-41"), Ok((2, 41)));
    }
}
