//! Everything that is printed, and the only file that prints.
//!
//! Results go to stdout, for people or as JSON. Events and errors go to stderr: one line each, with
//! time, level and `key=value`, so that they can be read by people and cut by `awk`.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Says what went wrong, in one line.
pub(crate) fn error(line: &str) {
    // If stderr is gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "error: {line}");
}

/// Writes one line of results.
///
/// # Errors
/// If stdout is closed or full. A reader that has seen enough (`head`) closes it: callers stop.
pub(crate) fn result(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// How loud an event is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    /// The course of things.
    Info,
    /// Somebody should look at this in working hours.
    Warn,
}

/// Logs one event of this program: `TIME info event=NAME key=value key="value with spaces"`.
pub(crate) fn event(level: Level, name: &str, facts: &[(&str, &dyn Display)]) {
    let mut text = format!("event={name}");
    for (key, value) in facts {
        let value = value.to_string();
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
        if !value.is_empty() && value.chars().all(plain) {
            text.push_str(&format!(" {key}={value}"));
        } else {
            text.push_str(&format!(" {key}={value:?}"));
        }
    }
    log(level, &text);
}

/// Logs one line that is made of `key=value` already.
pub(crate) fn log(level: Level, text: &str) {
    #[expect(clippy::disallowed_methods, reason = "a log line says when; nothing decides by it")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let level = match level {
        Level::Info => "info",
        Level::Warn => "warn",
    };
    // One write for the whole line: other processes write to the same terminal.
    let line = format!("{} {level} {text}\n", timestamp(now));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// UTC in the usual notation, from the time since 1970.
fn timestamp(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Gregorian calendar with the year beginning in March, so that the leap day is its last day;
    // 719,468 days lie between 0000-03-01 and 1970-01-01, 146,097 make 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let millis = since_1970.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_know_the_calendar() {
        let at = |seconds| timestamp(Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!(timestamp(Duration::from_millis(1_767_225_600_042)), "2026-01-01T00:00:00.042Z");
    }
}
