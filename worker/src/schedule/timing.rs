//! When a schedule is due: a cron expression, an interval, or one moment.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use chrono_tz::Tz;

use super::cron::{Expression, zone};
use crate::error::{Error, Result};
use crate::show;

/// The shortest interval.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest interval.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// When a schedule is due.
///
/// ```
/// use std::time::Duration;
/// use mq_worker::Timing;
///
/// # fn main() -> mq_worker::Result<()> {
/// let weekdays = Timing::cron("0 9 * * mon-fri")?.in_zone("Europe/Berlin")?;
/// let often = Timing::every(Duration::from_secs(600))?;
/// assert_eq!(weekdays.to_string(), "0 9 * * mon-fri (Europe/Berlin)");
/// assert_eq!(often.to_string(), "every 10m");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Timing(Kind);

#[derive(Clone)]
enum Kind {
    Cron { text: Arc<str>, zone: Tz, expression: Arc<Expression> },
    Every(Duration),
    At(DateTime<Utc>),
}

impl Timing {
    /// A cron expression: minute, hour, day of the month, month, day of the week; with a sixth field in front, the
    /// second. Names, lists, ranges, steps, `L`, `#`, `W` and nicknames such as `@daily` are understood. If both days
    /// are given, either is enough, as in cron; with a `+` before the day of the week both must fit, as in Celery.
    /// The zone is UTC unless [`in_zone`](Self::in_zone) sets another.
    ///
    /// A local time that does not exist, because clocks go forward, is due at the next one that does. One that occurs
    /// twice is due the first time. An expression that is due in every hour follows real time.
    ///
    /// # Errors
    /// An expression that cannot be read, or that is never due, such as 31 February.
    pub fn cron(expression: &str) -> Result<Self> {
        Self::cron_in(expression, Tz::UTC)
    }

    fn cron_in(text: &str, zone: Tz) -> Result<Self> {
        let expression = Expression::parse(text, zone)
            .map_err(|problem| Error::config(format!("cron expression `{text}`: {problem}")))?;
        Ok(Self(Kind::Cron { text: text.trim().into(), zone, expression: Arc::new(expression) }))
    }

    /// The same expression in the local time of a zone: an IANA name such as `Europe/Berlin`.
    ///
    /// # Errors
    /// An unknown zone, or a timing that is not a cron expression.
    pub fn in_zone(self, name: &str) -> Result<Self> {
        let zone = zone(name).map_err(|problem| Error::config(format!("time zone `{name}`: {problem}")))?;
        match self.0 {
            Kind::Cron { text, .. } => Self::cron_in(&text, zone),
            Kind::Every(_) => Err(Error::config("an interval is real time: it takes no time zone")),
            Kind::At(_) => Err(Error::config("a moment has its offset already: it takes no time zone")),
        }
    }

    /// An interval of real time. The due times are its multiples since 1970 in UTC, and so the same for all schedulers
    /// and after each restart: `10m` is due at ten past the hour, no matter when the program was started.
    ///
    /// # Errors
    /// Less than a second, or more than a year.
    pub fn every(interval: Duration) -> Result<Self> {
        // Due times are whole milliseconds: a fraction would have no effect.
        let interval = Duration::from_millis(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
        if interval < SHORTEST {
            return Err(Error::config(format!(
                "an interval of {} is too short: a schedule is due once a second at most",
                show::duration(interval)
            )));
        }
        if interval > LONGEST {
            return Err(Error::config(format!(
                "an interval of {} is too long: a year is the longest",
                show::duration(interval)
            )));
        }
        Ok(Self(Kind::Every(interval)))
    }

    /// One moment, after which the schedule is removed.
    pub fn at(moment: DateTime<Utc>) -> Self {
        Self(Kind::At(moment.trunc_subsecs(3)))
    }

    /// The first due time after a moment, if there is one.
    ///
    /// ```
    /// use mq_worker::Timing;
    /// # fn main() -> mq_worker::Result<()> {
    /// let yearly = Timing::cron("@yearly")?;
    /// let next = yearly.next_after(chrono::DateTime::UNIX_EPOCH).expect("a date");
    /// assert_eq!(next.to_rfc3339(), "1971-01-01T00:00:00+00:00");
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.0 {
            Kind::Cron { expression, .. } => expression.next(after),
            Kind::Every(interval) => {
                let step = i64::try_from(interval.as_millis()).ok()?;
                let next = after.timestamp_millis().div_euclid(step).checked_add(1)?.checked_mul(step)?;
                DateTime::from_timestamp_millis(next)
            }
            Kind::At(moment) => (*moment > after).then_some(*moment),
        }
    }

    /// The expression, if it is one.
    pub fn as_cron(&self) -> Option<&str> {
        match &self.0 {
            Kind::Cron { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The time zone of an expression; `None` for UTC.
    pub fn zone(&self) -> Option<&'static str> {
        match &self.0 {
            Kind::Cron { zone, .. } if *zone != Tz::UTC => Some(zone.name()),
            _ => None,
        }
    }

    /// The interval, if it is one.
    pub fn as_every(&self) -> Option<Duration> {
        match self.0 {
            Kind::Every(interval) => Some(interval),
            _ => None,
        }
    }

    /// The moment, if it is one.
    pub fn as_at(&self) -> Option<DateTime<Utc>> {
        match self.0 {
            Kind::At(moment) => Some(moment),
            _ => None,
        }
    }

    /// True if it names times of the day, which must not be due again when the clock is set back. Intervals, and expressions
    /// that are due in every hour, continue.
    pub(crate) fn is_of_the_day(&self) -> bool {
        match &self.0 {
            Kind::Cron { expression, .. } => !expression.is_due_every_hour(),
            Kind::Every(_) => false,
            Kind::At(_) => true,
        }
    }
}

impl PartialEq for Timing {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Cron { text, .. } => match self.zone() {
                Some(zone) => write!(f, "{text} ({zone})"),
                None => f.write_str(text),
            },
            Kind::Every(interval) => write!(f, "every {}", humantime::format_duration(*interval)),
            Kind::At(moment) => {
                write!(f, "at {}", moment.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
            }
        }
    }
}

impl fmt::Debug for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timing({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("a time").with_timezone(&Utc)
    }

    #[test]
    fn an_interval_is_due_at_its_multiples() {
        let every = |seconds| Timing::every(Duration::from_secs(seconds)).expect("an interval");
        for (seconds, after, next) in [
            (600, "2026-01-01T10:03:00Z", "2026-01-01T10:10:00Z"),
            (600, "2026-01-01T10:10:00Z", "2026-01-01T10:20:00Z"),
            (86_400, "2026-12-31T10:10:00Z", "2027-01-01T00:00:00Z"),
            (1, "2026-01-01T10:03:00.999Z", "2026-01-01T10:03:01Z"),
        ] {
            assert_eq!(every(seconds).next_after(time(after)), Some(time(next)));
        }
    }

    #[test]
    fn an_interval_has_bounds() {
        for bad in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(999), Duration::MAX] {
            assert!(Timing::every(bad).expect_err("refused").is_config());
        }
    }

    #[test]
    fn a_moment_is_due_once() {
        let moment = time("2026-05-01T12:00:00Z");
        let timing = Timing::at(moment);
        assert_eq!(timing.next_after(time("2026-01-01T00:00:00Z")), Some(moment));
        assert_eq!(timing.next_after(moment), None);
    }

    #[test]
    fn a_zone_belongs_to_an_expression() {
        let cron = Timing::cron("0 9 * * *").expect("an expression");
        assert_eq!(cron.clone().in_zone("Asia/Tokyo").expect("a zone").to_string(), "0 9 * * * (Asia/Tokyo)");
        assert!(cron.in_zone("Asia/Nowhere").is_err());
        assert!(Timing::every(Duration::from_secs(5)).expect("ok").in_zone("UTC").is_err());
    }
}
