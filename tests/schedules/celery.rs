//! A year of due times, compared with those of Celery's own `crontab`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use chrono::{DateTime, NaiveDate, Offset, TimeDelta, Utc};
use chrono_tz::Tz;
use mq_worker::Timing;
use support::python;

/// In Celery both the day and the weekday must match, which is written with a `+` here.
const EXPRESSIONS: &[&str] = &[
    "0 9 * * 1-5",
    "*/15 * * * *",
    "30 8 1,15 * *",
    "0 0 * * 0",
    "5 4 * * sun",
    "0 22 * * mon-fri",
    "23 0-20/2 * * *",
    "0 0,12 1 */2 *",
    "0 4 8-14 * *",
    "0 0 1 1 *",
    "15 14 1 * *",
    "0 0 29 2 *",
    "0 0 31 * *",
    "*/7 3 * 6-8 *",
    "0 9 1-7 * +mon",
    "0 9 13 * +fri",
    "1,13,30-45,50-59/2 5 * * *",
    "0 0 * * */2",
];

/// Expressions for zones with clock changes of an hour or half an hour, in both hemispheres, and for one zone without.
const IN_ZONES: &[&str] = &[
    "30 2 * * *",
    "0 9 * * 1-5",
    "15 1,3 * * sun",
    "0 0 1 * *",
    "45 23 31 * *",
    "0 9 1-7 * +mon",
    "*/20 6-8 1-15 4,10 *",
];
const ZONES: &[&str] =
    &["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kolkata"];

const SCRIPT: &str = r#"
import sys
from datetime import datetime, timedelta, timezone
from celery import Celery
from celery.schedules import crontab
app = Celery(set_as_current=False)
app.conf.timezone = sys.argv[1]
zone = app.timezone
begin, end = datetime(2027, 6, 1, tzinfo=timezone.utc), datetime(2028, 6, 1, tzinfo=timezone.utc)
for line in sys.argv[2:]:
    minute, hour, day, month, weekday = line.replace("+", "").split()
    now = begin.astimezone(zone)
    schedule = crontab(minute, hour, day_of_month=day, month_of_year=month, day_of_week=weekday, nowfun=lambda: now, app=app)
    times = []
    while True:
        last, delta, _ = schedule.remaining_delta(now)
        now = last + delta
        if now >= end:
            break
        times.append(int(now.timestamp()))
    print(",".join(map(str, times)))
"#;

/// Returns Celery's due times of each expression within a year.
fn theirs(python: &Path, zone: &str, expressions: &[&str]) -> Vec<Vec<i64>> {
    let output = Command::new(python).arg("-c").arg(SCRIPT).arg(zone).args(expressions).output();
    let output = output.expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("a text");
    let times = |line: &str| line.split(',').filter_map(|second| second.parse().ok()).collect();
    let lines: Vec<Vec<i64>> = text.lines().map(times).collect();
    assert_eq!(lines.len(), expressions.len());
    lines
}

/// Returns our due times of an expression.
fn ours(zone: &str, expression: &str) -> Vec<i64> {
    let time = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
    let (begin, end) = (time("2027-06-01T00:00:00Z"), time("2028-06-01T00:00:00Z"));
    let timing = Timing::cron(expression).and_then(|timing| timing.in_zone(zone)).expect(expression);
    let next = |last: &DateTime<Utc>| timing.next_after(*last).filter(|due| *due < end);
    std::iter::successors(next(&begin), next).map(|due| due.timestamp()).collect()
}

#[test]
fn a_year_of_due_times_is_the_same_as_celerys() {
    let Some(python) = python::python(file!()) else { return };
    for (expression, theirs) in EXPRESSIONS.iter().zip(theirs(python.interpreter(), "UTC", EXPRESSIONS)) {
        let ours = ours("UTC", expression);
        assert!(!ours.is_empty(), "{expression}");
        assert_eq!(ours.len(), theirs.len(), "{expression}");
        assert_eq!(ours, theirs, "{expression}");
    }
}

/// On days with a clock change, Celery sends calls that are due in the skipped hour an hour later, some of them twice: our
/// own behaviour on those days is tested beside the expressions themselves.
#[test]
fn a_year_of_due_times_in_zones_whose_clocks_change_is_the_same_as_celerys_but_for_two_days() {
    let Some(python) = python::python(file!()) else { return };
    for zone in ZONES {
        let tz: Tz = zone.parse().expect("a zone");
        let changes = days_of_change(tz);
        assert_eq!(changes.is_empty(), *zone == "Asia/Kolkata", "{zone}");
        assert!(changes.len() <= 4, "{zone}: {changes:?}");
        let day = |second: &i64| {
            DateTime::from_timestamp(*second, 0).expect("a time").with_timezone(&tz).date_naive()
        };
        for (expression, theirs) in IN_ZONES.iter().zip(theirs(python.interpreter(), zone, IN_ZONES)) {
            let usual = |times: Vec<i64>| -> Vec<i64> {
                times.into_iter().filter(|second| !changes.contains(&day(second))).collect()
            };
            let (ours, theirs) = (usual(ours(zone, expression)), usual(theirs));
            assert!(!ours.is_empty(), "{zone}: {expression}");
            assert_eq!(ours, theirs, "{zone}: {expression}");
        }
    }
}

/// Returns the local days of the year on which the offset changes; for a change at midnight, both days.
fn days_of_change(tz: Tz) -> BTreeSet<NaiveDate> {
    let begin = "2027-06-01T00:00:00Z".parse::<DateTime<Utc>>().expect("a time");
    let offset = |hour: i64| (begin + TimeDelta::hours(hour)).with_timezone(&tz).offset().fix();
    let changed = (0..366 * 24).filter(|hour| offset(*hour) != offset(hour + 1));
    let hours = changed.flat_map(|hour| [hour, hour + 1]);
    hours.map(|hour| (begin + TimeDelta::hours(hour)).with_timezone(&tz).date_naive()).collect()
}
