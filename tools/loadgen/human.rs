//! Values as people write them: `100k`, `10s`, `1MiB`; and numbers as people read them.
//!
//! Apart so that the command line and the report speak the same language. Does not know what the
//! values mean.

use std::time::Duration;

/// Splits `text` into its number and its unit.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let number = number.replace('_', "").parse::<f64>().ok()?;
    (number.is_finite() && number >= 0.0).then_some((number, unit.trim()))
}

/// A non-negative number, cut to a whole one. Values beyond 2^53 saturate far above any use.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the fraction is meant to go, and `as` saturates"
)]
pub(crate) fn whole(number: f64) -> u64 {
    number as u64
}

/// A count: `250`, `100k`, `1.5M`.
///
/// # Errors
/// A sentence for the command line.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text)
        .ok_or_else(|| format!("`{text}` is not a number such as 500, 100k or 2M"))?;
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "m" | "M" => 1e6,
        "g" | "G" => 1e9,
        _ => return Err(format!("unknown unit `{unit}`: use k, M or G")),
    };
    Ok(whole(number * factor))
}

/// A number of bytes: `200`, `4KiB`, `1MB`.
///
/// # Errors
/// A sentence for the command line.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text)
        .ok_or_else(|| format!("`{text}` is not a size such as 200, 4KiB or 1MB"))?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "kib" => 1024.0,
        "g" | "gb" => 1e9,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("unknown unit `{unit}`: use B, kB, KiB, MB, MiB, GB or GiB")),
    };
    Ok(whole(number * factor))
}

/// A time: `10s`, `500ms`, `2m`; a bare number is seconds.
///
/// # Errors
/// A sentence for the command line.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text)
        .ok_or_else(|| format!("`{text}` is not a time such as 10s, 500ms or 2m"))?;
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit `{unit}`: use us, ms, s, m or h")),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|_| format!("`{text}` is too long"))
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes with a decimal unit: `20.1 MB`.
pub(crate) fn byte_size(bytes: f64) -> String {
    const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.2} {unit}", bytes / size),
        None => format!("{bytes:.0} B"),
    }
}

/// A time with a fitting unit: `10s`, `500ms`.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration >= Duration::from_secs(1) {
        let text = format!("{:.2}", duration.as_secs_f64());
        format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
    } else {
        format!("{}ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_sizes_and_times_are_read_as_written() {
        assert_eq!(count("100k"), Ok(100_000));
        assert_eq!(count("1.5M"), Ok(1_500_000));
        assert_eq!(count("1_000"), Ok(1000));
        assert_eq!(bytes("4KiB"), Ok(4096));
        assert_eq!(bytes("1MB"), Ok(1_000_000));
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert_eq!(bytes("3gb"), Ok(3_000_000_000));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        for text in ["", "k", "ten", "-1", "1x", "1.2.3", "inf", "nan"] {
            assert!(count(text).is_err(), "{text}");
            assert!(bytes(text).is_err(), "{text}");
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(byte_size(20_100_000.0), "20.10 MB");
        assert_eq!(byte_size(12.0), "12 B");
        assert_eq!(seconds(Duration::from_secs(10)), "10s");
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5s");
        assert_eq!(seconds(Duration::from_millis(20)), "20ms");
    }
}
