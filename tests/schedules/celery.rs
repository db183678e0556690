//! A year of due times, compared with those of Celery's own `crontab`.

use chrono::{DateTime, Utc};
use mq_worker::Timing;
use support::python;

/// In Celery both days must fit: here that is written with a `+`.
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

const SCRIPT: &str = r#"
import sys
from datetime import datetime, timedelta, timezone
from celery import Celery
from celery.schedules import crontab, ffwd
app = Celery(set_as_current=False)
app.conf.timezone = "UTC"
begin, end = datetime(2027, 6, 1, tzinfo=timezone.utc), datetime(2028, 6, 1, tzinfo=timezone.utc)
for line in sys.argv[1:]:
    minute, hour, day, month, weekday = line.replace("+", "").split()
    now = begin
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

#[test]
fn a_year_of_due_times_is_the_same_as_celerys() {
    let Some(python) = python::python(file!()) else { return };
    let output = std::process::Command::new(python.interpreter())
        .arg("-c")
        .arg(SCRIPT)
        .args(EXPRESSIONS)
        .output()
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("a text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), EXPRESSIONS.len());
    let time = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
    let (begin, end) = (time("2027-06-01T00:00:00Z"), time("2028-06-01T00:00:00Z"));
    for (expression, theirs) in EXPRESSIONS.iter().zip(lines) {
        let theirs: Vec<i64> = theirs.split(',').filter_map(|second| second.parse().ok()).collect();
        let timing = Timing::cron(expression).expect(expression);
        let mut ours = Vec::new();
        let mut last = begin;
        while let Some(due) = timing.next_after(last).filter(|due| *due < end) {
            ours.push(due.timestamp());
            last = due;
        }
        assert!(!ours.is_empty() || theirs.is_empty(), "{expression}");
        assert_eq!(ours.len(), theirs.len(), "{expression}");
        assert_eq!(ours, theirs, "{expression}");
    }
}
