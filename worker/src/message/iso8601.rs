//! ISO 8601 in every form that Celery reads.

use chrono::{DateTime, Duration, NaiveDate, NaiveDateTime, NaiveTime, Utc, Weekday};

/// Reads a date, or a date and a time; without an offset it is UTC, Celery's default time zone.
///
/// Celery reads times with `dateutil`'s `isoparse`, kombu with Python's `fromisoformat`: `2031-01-02`, `20310102T0304`,
/// `2031-W01-4 03:04:05,678+02` and the like.
pub fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    // The form that nearly every sender writes.
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.with_timezone(&Utc));
    }
    let (local, offset) = local(text)?;
    local.checked_sub_signed(offset.unwrap_or_default()).map(|time| time.and_utc())
}

/// The time as it is written, and how far it is ahead of UTC, if it has an offset.
pub(super) fn local(text: &str) -> Option<(NaiveDateTime, Option<Duration>)> {
    // In ASCII, every index is a character boundary.
    if !text.is_ascii() {
        return None;
    }
    let (date, rest) = common_date(text).or_else(|| other_date(text))?;
    if rest.is_empty() {
        return Some((date.and_time(NaiveTime::MIN), None));
    }
    // Any character may separate date and time.
    let rest = &rest[1..];
    let zone = rest.find(['+', '-', 'Z', 'z']).unwrap_or(rest.len());
    let (time, is_next_midnight) = time(&rest[..zone])?;
    let date = if is_next_midnight { date.succ_opt()? } else { date };
    let offset = match &rest[zone..] {
        "" => None,
        zone => Some(offset(zone)?),
    };
    Some((date.and_time(time), offset))
}

/// `YYYY`, `YYYY-MM`, `YYYY-MM-DD`, `YYYYMMDD`, and what follows it.
fn common_date(text: &str) -> Option<(NaiveDate, &str)> {
    let (year, rest) = year(text)?;
    if rest.is_empty() {
        return Some((NaiveDate::from_ymd_opt(year, 1, 1)?, rest));
    }
    let (month, day, rest) = match rest.strip_prefix('-') {
        Some(rest) => {
            let (month, rest) = number(rest, 2)?;
            if rest.is_empty() {
                (month, 1, rest)
            } else {
                let (day, rest) = number(rest.strip_prefix('-')?, 2)?;
                (month, day, rest)
            }
        }
        None => {
            let (month, rest) = number(rest, 2)?;
            let (day, rest) = number(rest, 2)?;
            (month, day, rest)
        }
    };
    Some((NaiveDate::from_ymd_opt(year, month, day)?, rest))
}

/// A day of a week or of the year, with or without dashes: `YYYY-Www`, `YYYY-Www-D`, `YYYY-DDD`.
fn other_date(text: &str) -> Option<(NaiveDate, &str)> {
    let (year, rest) = year(text)?;
    let dashed = rest.starts_with('-');
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let Some(rest) = rest.strip_prefix('W') else {
        let (day, rest) = number(rest, 3)?;
        return Some((NaiveDate::from_yo_opt(year, day)?, rest));
    };
    let (week, rest) = number(rest, 2)?;
    let (day, rest) = match rest {
        "" => (1, rest),
        _ if dashed => number(rest.strip_prefix('-')?, 1)?,
        _ => number(rest, 1)?,
    };
    let weekday = Weekday::try_from(u8::try_from(day).ok()?.checked_sub(1)?).ok()?;
    Some((NaiveDate::from_isoywd_opt(year, week, weekday)?, rest))
}

fn year(text: &str) -> Option<(i32, &str)> {
    let (year, rest) = number(text, 4)?;
    Some((i32::try_from(year).ok()?, rest))
}

/// `hh`, `hh:mm`, `hhmm`, `hh:mm:ss`, `hhmmss`, the last two with a fraction; and whether it is the midnight at the end
/// of the day, `24:00`.
fn time(text: &str) -> Option<(NaiveTime, bool)> {
    let (clock, fraction) = match text.split_once(['.', ',']) {
        Some((clock, fraction)) => (clock, Some(fraction)),
        None => (text, None),
    };
    let colons = clock.as_bytes().get(2) == Some(&b':');
    let mut parts = [0; 3];
    let mut rest = clock;
    let mut count = 0;
    for part in &mut parts {
        if count > 0 {
            if rest.is_empty() {
                break;
            }
            rest = if colons { rest.strip_prefix(':')? } else { rest };
        }
        (*part, rest) = number(rest, 2)?;
        count += 1;
    }
    if !rest.is_empty() {
        return None;
    }
    let nanos = match fraction {
        None => 0,
        Some(digits) if count == 3 && !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) => {
            // Digits beyond nanoseconds are cut off.
            format!("{digits:0<9}")[..9].parse().ok()?
        }
        Some(_) => return None,
    };
    match (parts, nanos) {
        ([24, 0, 0], 0) => Some((NaiveTime::MIN, true)),
        ([hour, minute, second], nanos) => {
            Some((NaiveTime::from_hms_nano_opt(hour, minute, second, nanos)?, false))
        }
    }
}

/// `Z`, `+hh`, `+hhmm`, `+hh:mm`, and Python's form with seconds.
fn offset(zone: &str) -> Option<Duration> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(Duration::zero());
    }
    let (time, is_next_midnight) = time(&zone[1..])?;
    let ahead = time.signed_duration_since(NaiveTime::MIN);
    (!is_next_midnight).then_some(if zone.starts_with('-') { -ahead } else { ahead })
}

/// A number of exactly this many digits, and what follows it.
fn number(text: &str, digits: usize) -> Option<(u32, &str)> {
    let (number, rest) = text.split_at_checked(digits)?;
    number.bytes().all(|c| c.is_ascii_digit()).then_some(())?;
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::parse_time;

    #[test]
    fn times_are_read_in_every_form_that_celery_reads() {
        for (text, expected) in [
            ("2031-01-02T03:04:05+00:00", "2031-01-02T03:04:05Z"),
            ("2031-01-02T03:04:05Z", "2031-01-02T03:04:05Z"),
            ("2031-01-02T03:04:05", "2031-01-02T03:04:05Z"),
            ("2031-01-02T05:04:05+02:00", "2031-01-02T03:04:05Z"),
            ("2031-01-02T03:04:05.000000000+00:00", "2031-01-02T03:04:05Z"),
            ("2015", "2015-01-01T00:00:00Z"),
            ("2015-12", "2015-12-01T00:00:00Z"),
            ("2015-12-05", "2015-12-05T00:00:00Z"),
            ("20151205", "2015-12-05T00:00:00Z"),
            ("2015-W49", "2015-11-30T00:00:00Z"),
            ("2015W49", "2015-11-30T00:00:00Z"),
            ("2015-W49-6T10", "2015-12-05T10:00:00Z"),
            ("2015W496T10", "2015-12-05T10:00:00Z"),
            ("2015-339", "2015-12-05T00:00:00Z"),
            ("2015339T1011", "2015-12-05T10:11:00Z"),
            ("2015-123T10", "2015-05-03T10:00:00Z"),
            ("2015-12-05T10:11:12+0000", "2015-12-05T10:11:12Z"),
            ("2015-12-05T10:11:12+02", "2015-12-05T08:11:12Z"),
            ("2015-12-05T10:11:12-0230", "2015-12-05T12:41:12Z"),
            ("2015-12-05T10:11:12+01:02:03", "2015-12-05T09:09:09Z"),
            ("2015-12-05T10:11", "2015-12-05T10:11:00Z"),
            ("2015-12-05T10:11Z", "2015-12-05T10:11:00Z"),
            ("2015-12-05T10", "2015-12-05T10:00:00Z"),
            ("2015-12-05T10+02", "2015-12-05T08:00:00Z"),
            ("20151205T101112Z", "2015-12-05T10:11:12Z"),
            ("20151205T101112.5+0200", "2015-12-05T08:11:12.5Z"),
            ("2015-12-05 10:11:12", "2015-12-05T10:11:12Z"),
            ("2015-12-05t10:11:12z", "2015-12-05T10:11:12Z"),
            ("2015-12-05T10:11:12,25", "2015-12-05T10:11:12.25Z"),
            ("2015-12-05T10:11:12.1234567891", "2015-12-05T10:11:12.123456789Z"),
            ("2015-12-31T24:00", "2016-01-01T00:00:00Z"),
            ("2015-12-31T24:00:00.000+01", "2015-12-31T23:00:00Z"),
            ("20151231T24", "2016-01-01T00:00:00Z"),
        ] {
            let expected = chrono::DateTime::parse_from_rfc3339(expected).expect(expected);
            assert_eq!(parse_time(text).map(|time| time.fixed_offset()), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_celery_refuses_is_no_time() {
        for text in [
            "",
            "tomorrow",
            "12",
            "201512",
            "2015-1-2",
            "2015-13-01",
            "2015-02-30",
            "2015-366",
            "2015-W54",
            "2015-W49-8",
            "2015-W496",
            "2015-12-05T",
            "2015-12-05Z",
            "2015-12-05T1",
            "2015-12-05T10:1",
            "2015-12-05T10:1112",
            "2015-12-05T24:01",
            "2015-12-05T25",
            "2015-12-05T10:11.5",
            "2015-12-05T10:11:12.",
            "2015-12-05T10:11:12+",
            "2015-12-05T10:11:12+2",
            "2015-12-05T10:11:12+24:00",
            "2015-12-05T10:11:12+02:60",
            "2015-12-05T10:11:12 UTC",
            "+12345-01-01T00:00:00Z",
            "12345-01-01",
            "２015-12-05",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
