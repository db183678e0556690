//! Cron expressions in local time.
//!
//! An expression names local times. A time that does not exist, when clocks go forward, is due at the next one that does;
//! a time that occurs twice, when clocks go back, is due the first time. An expression that is due in every hour of the
//! day follows real time instead: an hourly call is not an hour late because the clocks were changed.

use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Year};

/// Days in full, which are accepted too.
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The longest gap in local time, in minutes: a whole day, where the date line was moved.
const LONGEST_GAP: i64 = 26 * 60;

/// An expression in a zone.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    cron: Cron,
    zone: Tz,
    /// True if it is due in every hour.
    every_hour: bool,
}

impl Expression {
    /// Reads five fields, or six with seconds, or a nickname such as `@daily`.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub(super) fn parse(text: &str, zone: Tz) -> Result<Self, String> {
        let mut pattern = text.trim().to_ascii_lowercase();
        if let Some(nickname) = pattern.strip_prefix('@')
            && !["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"].contains(&nickname)
        {
            return Err(format!(
                "there is no `@{nickname}`; there are @yearly, @monthly, @weekly, @daily and @hourly"
            ));
        }
        for day in DAYS {
            pattern = pattern.replace(day, &day[..3]);
        }
        let fields = pattern.split_whitespace().count();
        if !pattern.starts_with('@') && !(5..=6).contains(&fields) {
            return Err(format!(
                "it has {fields} fields, and needs five: minute, hour, day of the month, month, day of the week; or \
                 six, the first of which is the second"
            ));
        }
        let parser = CronParser::builder().year(Year::Disallowed).build();
        let cron = parser.parse(&pattern).map_err(|error| whose(&pattern, &parser, &error.to_string()))?;
        let hours = cron.pattern.hours.values();
        let every_hour = (0..24).all(|hour| hours.contains(&hour));
        let expression = Self { cron, zone, every_hour };
        let any = DateTime::from_timestamp(0, 0).unwrap_or_default();
        match expression.next_local(any.naive_utc()) {
            Some(_) => Ok(expression),
            None => Err("it names a day that no year has".into()),
        }
    }

    /// The first due time after a moment.
    pub(super) fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.every_hour {
            let next = self.cron.find_next_occurrence(&after.with_timezone(&self.zone), false).ok()?;
            return Some(next.with_timezone(&Utc));
        }
        let mut local = after.with_timezone(&self.zone).naive_local();
        // Local times that occur twice, or do not exist, can be due at a moment that has passed.
        loop {
            local = self.next_local(local)?;
            let due = moment(local, self.zone)?;
            if due > after {
                return Some(due);
            }
        }
    }

    /// True if it is due in every hour of the day.
    pub(super) fn is_due_every_hour(&self) -> bool {
        self.every_hour
    }

    /// The next local time that the expression names.
    fn next_local(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        Some(self.cron.find_next_occurrence(&after.and_utc(), false).ok()?.naive_utc())
    }
}

/// The first moment with this local time, or the first moment after the gap that it falls into.
fn moment(local: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    if let Some(found) = zone.from_local_datetime(&local).earliest() {
        return Some(found.with_timezone(&Utc));
    }
    // Ever since there have been time zones, clocks have been changed on a whole minute of local time.
    let minute = local.and_utc().timestamp().div_euclid(60);
    (1..=LONGEST_GAP).find_map(|minutes| {
        let later = DateTime::from_timestamp((minute + minutes) * 60, 0)?.naive_utc();
        Some(zone.from_local_datetime(&later).earliest()?.with_timezone(&Utc))
    })
}

/// The zone of an IANA name.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub(super) fn zone(name: &str) -> Result<Tz, String> {
    let name = name.trim();
    Tz::from_str(name).map_err(|_| {
        let near = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()).find(|known| {
            known.eq_ignore_ascii_case(name)
                || known.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(name))
        });
        match near {
            Some(near) => format!("no time zone has this name; did you mean `{near}`?"),
            None => {
                "no time zone has this name; write one of the IANA names, such as `Europe/Berlin` or `UTC`"
                    .into()
            }
        }
    })
}

/// Describes the problem and the field that has it.
fn whose(pattern: &str, parser: &CronParser, problem: &str) -> String {
    const FIELDS: [&str; 6] = ["second", "minute", "hour", "day of the month", "month", "day of the week"];
    let fields: Vec<&str> = pattern.split_whitespace().collect();
    let names = &FIELDS[FIELDS.len() - fields.len().min(6)..];
    let is_wrong = |index: &usize| {
        let alone = |(other, field)| if other == *index { field } else { "*" };
        let alone: Vec<&str> = fields.iter().copied().enumerate().map(alone).collect();
        parser.parse(&alone.join(" ")).is_err()
    };
    match (0..fields.len()).find(is_wrong) {
        Some(index) => format!("the {} is `{}`: {}", names[index], fields[index], plain(problem)),
        None => plain(problem),
    }
}

/// The parser's message without its type names.
fn plain(text: &str) -> String {
    let text = ["Component error: ", "Invalid pattern: ", "Pattern contains illegal characters: "]
        .iter()
        .fold(text, |text, prefix| text.strip_prefix(prefix).unwrap_or(text));
    let text = text.trim_end_matches('.');
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;

    fn expression(text: &str, zone_name: &str) -> Expression {
        Expression::parse(text, zone(zone_name).expect("a zone")).expect("an expression")
    }

    fn time(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("a time").with_timezone(&Utc)
    }

    /// The due times after a moment, in local time.
    fn due(text: &str, zone_name: &str, after: &str, count: usize) -> Vec<String> {
        let expression = expression(text, zone_name);
        let mut last = time(after);
        (0..count)
            .map(|_| {
                last = expression.next(last).expect("another");
                last.with_timezone(&expression.zone).format("%m-%d %H:%M%:z").to_string()
            })
            .collect()
    }

    #[test]
    fn expressions_are_read_as_cron_reads_them() {
        for (text, expected) in [
            ("0 9 * * mon-fri", vec!["01-05 09:00", "01-06 09:00"]),
            ("0 9 * * monday", vec!["01-05 09:00", "01-12 09:00"]),
            ("30 8 1,15 * *", vec!["01-15 08:30", "02-01 08:30"]),
            ("0 0 1 * 1", vec!["01-05 00:00", "01-12 00:00"]),
            ("0 0 1 * +1", vec!["06-01 00:00"]),
            ("0 0 L * *", vec!["01-31 00:00", "02-28 00:00"]),
            ("0 0 * * 5#2", vec!["01-09 00:00", "02-13 00:00"]),
            ("0 0 * * 5L", vec!["01-30 00:00", "02-27 00:00"]),
            ("0 0 29 2 *", vec!["02-29 00:00"]),
            ("*/20 9-10 * jan *", vec!["01-03 09:00", "01-03 09:20", "01-03 09:40", "01-03 10:00"]),
            ("@daily", vec!["01-03 00:00", "01-04 00:00"]),
            ("@weekly", vec!["01-04 00:00"]),
            ("@yearly", vec!["01-01 00:00"]),
            ("0 0 0 31 12 *", vec!["12-31 00:00"]),
        ] {
            let found = due(text, "UTC", "2026-01-02T12:00:00Z", expected.len());
            let expected: Vec<String> = expected.iter().map(|time| format!("{time}+00:00")).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn seconds_are_optional() {
        let expression = expression("*/20 * * * * *", "UTC");
        let next = expression.next(time("2026-01-02T12:00:20.5Z")).expect("a time");
        assert_eq!(next, time("2026-01-02T12:00:40Z"));
    }

    #[test]
    fn what_can_never_be_is_refused_in_plain_words() {
        for (text, words) in [
            ("0 0 31 2 *", "it names a day that no year has"),
            ("0 0 31 4,6 *", "it names a day that no year has"),
            ("60 * * * *", "the minute is `60`"),
            ("* * * jam *", "the month is `jam`"),
            ("* * * *", "it has 4 fields"),
            ("", "it has 0 fields"),
            ("0 0 1 1 * 2026 9", "it has 7 fields"),
            ("@reboot", "there is no `@reboot`"),
            ("every day", "it has 2 fields"),
            ("a b c d e", ""),
            ("0 0 * * mon/", ""),
        ] {
            let problem = Expression::parse(text, Tz::UTC).expect_err(text);
            assert!(problem.contains(words), "{text}: {problem}");
            assert!(!problem.contains("Error") && !problem.contains("Component"), "{text}: {problem}");
        }
        assert!(zone("Mars/Olympus").expect_err("no zone").contains("IANA"));
        assert!(zone("berlin").expect_err("no zone").contains("`Europe/Berlin`"));
    }

    /// In five zones: a time that does not exist is due once, at the next one that does; a time that occurs twice is due once.
    #[test]
    fn a_changed_clock_neither_drops_nor_doubles() {
        for (zone, text, after, expected) in [
            // Forward: 02:00 to 03:00, 02:00 to 03:00, 02:00 to 02:30, 00:00 to 01:00, 24:00 to the day after.
            (
                "Europe/Berlin",
                "30 2 * * *",
                "2026-03-28T12:00:00Z",
                vec!["03-29 03:00+02:00", "03-30 02:30+02:00"],
            ),
            (
                "Europe/Berlin",
                "0,15,30 2 * * *",
                "2026-03-28T12:00:00Z",
                vec!["03-29 03:00+02:00", "03-30 02:00+02:00"],
            ),
            (
                "America/New_York",
                "0 2,14 * * *",
                "2026-03-08T00:00:00-05:00",
                vec!["03-08 03:00-04:00", "03-08 14:00-04:00"],
            ),
            (
                "Australia/Lord_Howe",
                "15 2 * * *",
                "2026-10-03T12:00:00Z",
                vec!["10-04 02:30+11:00", "10-05 02:15+11:00"],
            ),
            (
                "Africa/Cairo",
                "0 0 * * *",
                "2026-04-23T12:00:00Z",
                vec!["04-24 01:00+03:00", "04-25 00:00+03:00"],
            ),
            ("Pacific/Apia", "0 9 30 12 *", "2011-12-29T12:00:00-10:00", vec!["12-31 00:00+14:00"]),
            // Back: 03:00 to 02:00, 02:00 to 01:00, 02:00 to 01:30, 24:00 to 23:00.
            (
                "Europe/Berlin",
                "30 2 * * *",
                "2026-10-24T12:00:00Z",
                vec!["10-25 02:30+02:00", "10-26 02:30+01:00"],
            ),
            (
                "America/New_York",
                "30 1 * * *",
                "2026-11-01T00:00:00-04:00",
                vec!["11-01 01:30-04:00", "11-02 01:30-05:00"],
            ),
            (
                "Australia/Lord_Howe",
                "45 1 * * *",
                "2026-04-04T12:00:00Z",
                vec!["04-05 01:45+11:00", "04-06 01:45+10:30"],
            ),
            (
                "Africa/Cairo",
                "30 23 * * *",
                "2026-10-29T12:00:00Z",
                vec!["10-29 23:30+03:00", "10-30 23:30+02:00"],
            ),
        ] {
            assert_eq!(due(text, zone, after, expected.len()), expected, "{text} in {zone}");
        }
    }

    #[test]
    fn what_is_due_every_hour_follows_real_time() {
        let found = due("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 4);
        assert_eq!(
            found,
            ["10-25 02:00+02:00", "10-25 02:00+01:00", "10-25 03:00+01:00", "10-25 04:00+01:00"]
        );
        let found = due("0 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
        assert_eq!(found, ["03-29 03:00+02:00", "03-29 04:00+02:00", "03-29 05:00+02:00"]);
        // For a whole year, wherever clocks are changed by whole hours.
        for zone in ["Europe/Berlin", "America/New_York", "Africa/Cairo", "UTC"] {
            let expression = expression("*/30 * * * *", zone);
            let mut last = time("2026-01-01T00:00:00Z");
            while last < time("2027-01-01T00:00:00Z") {
                let next = expression.next(last).expect("another");
                assert_eq!(next - last, Duration::minutes(30), "{zone}, after {last}");
                last = next;
            }
        }
    }

    /// However the clocks are changed, a daily call is due once a day.
    #[test]
    fn every_day_of_a_year_has_one_due_time() {
        for zone in
            ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Sao_Paulo"]
        {
            for text in ["30 2 * * *", "0 0 * * *", "30 1 * * *", "45 23 * * *", "15 2 * * *"] {
                let expression = expression(text, zone);
                let mut days = Vec::new();
                let mut last =
                    moment(time("2026-01-01T00:00:00Z").naive_utc() - Duration::seconds(1), expression.zone)
                        .expect("a time");
                loop {
                    last = expression.next(last).expect("another");
                    let local = last.with_timezone(&expression.zone).date_naive();
                    if local >= time("2027-01-01T00:00:00Z").date_naive() {
                        break;
                    }
                    days.push(local);
                }
                assert_eq!(days.len(), 365, "{text} in {zone}");
                assert!(days.windows(2).all(|pair| pair[0] < pair[1]), "{text} in {zone}");
            }
        }
    }
}
