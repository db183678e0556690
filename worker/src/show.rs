//! Formats times, numbers and long texts for people: `1s 500ms`, `2 messages`.

use std::time::Duration;

/// A duration in the configuration's format, at a readable precision.
pub(crate) fn duration(duration: Duration) -> impl std::fmt::Display {
    let millis = match duration {
        // A task may take less than a millisecond.
        short if short < Duration::from_millis(1) => Duration::from_micros(short.subsec_micros().into()),
        middle if middle < Duration::from_secs(60) => Duration::from_millis(millis(middle)),
        long => Duration::from_secs(long.as_secs()),
    };
    humantime::format_duration(millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time in UTC, to the second.
#[cfg(feature = "dashboard")]
pub(crate) fn time(time: chrono::DateTime<chrono::Utc>) -> impl std::fmt::Display {
    time.format("%Y-%m-%d %H:%M:%SZ")
}

/// Puts a text on one line and shortens it to `width` characters, for a table or a log.
#[cfg(feature = "cli")]
pub(crate) fn one_line(text: &str, width: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    if line.chars().count() <= width {
        return line;
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// `1 message`, `2 messages`.
#[cfg(feature = "cli")]
pub(crate) fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_exact_as_anyone_reads_it() {
        for (given, shown) in [
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1_500), "1us"),
            (Duration::from_nanos(1_234_567), "1ms"),
            (Duration::from_secs_f64(59.9876), "59s 987ms"),
            (Duration::from_secs_f64(90.9876), "1m 30s"),
            (Duration::from_secs(86_400), "1day"),
        ] {
            assert_eq!(duration(given).to_string(), shown);
        }
        assert!(!duration(Duration::MAX).to_string().is_empty());
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_long_text_becomes_one_line() {
        assert_eq!(one_line("a\n  b\tc", 10), "a b c");
        assert_eq!(one_line("abcdefgh", 5), "abcd…");
        assert_eq!(one_line("a\u{1b}[31mb", 10), "a[31mb");
    }
}
