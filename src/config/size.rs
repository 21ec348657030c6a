//! Sizes as people write them: `4096`, `64MiB`, `1.5GiB`, `10MB`.

/// Units, longest suffix first so that `MiB` is not read as `B`.
const UNITS: [(&str, u64); 11] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("b", 1),
];

/// Bytes. Fractions are rounded down to a whole byte.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size; write bytes or a unit, such as 67108864, 64MiB or 1.5GiB");
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = UNITS.iter().find_map(|(suffix, unit)| Some((lower.strip_suffix(suffix)?, *unit))).unwrap_or((&lower, 1));
    let number = number.trim_end().replace('_', "");
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(wrong);
    }
    let Ok(fraction) = number.parse::<f64>() else { return Err(wrong()) };
    #[expect(clippy::cast_precision_loss, reason = "a unit is a small power, exact in f64")]
    let bytes = fraction * unit as f64;
    if !(0.0..9e15).contains(&bytes) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within 0 and 2^53")]
    Ok(bytes as u64)
}

/// The shortest honest way to write a size: two digits after the point at most.
#[must_use]
pub fn show(bytes: u64) -> String {
    for (name, unit) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= unit {
            #[expect(clippy::cast_precision_loss, reason = "for display")]
            let scaled = format!("{:.2}", bytes as f64 / unit as f64);
            return format!("{} {name}", scaled.trim_end_matches('0').trim_end_matches('.'));
        }
    }
    format!("{bytes} B")
}
