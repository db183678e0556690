//! The arguments of `pause` and `resume`.

use chrono::{DateTime, Utc};
use clap::Args;

use crate::app::Pausable;
use crate::app::config::value;
use crate::message::headers::parse_time;

pub(in crate::cli) const PAUSE_HELP: &str = "\
A paused queue is not consumed: its messages wait in the broker, and running tasks continue. The messages of a paused
task go back to wait in the broker, without spending an attempt. The broker keeps the pause: running workers obey it
within a second (within two with `worker.control = false`), those that start later from their first message. `mq-worker status` shows what is paused. Celery's own workers do
not know pauses.

Examples:
  mq-worker pause email
  mq-worker pause email --until 30m
  mq-worker pause --task send_sms --until 2026-12-24T18:00:00Z";

#[derive(Args, Debug)]
pub(in crate::cli) struct PauseArguments {
    #[command(flatten)]
    what: Named,
    /// When the pause ends by itself: a duration (`30m`) or a time (`2026-12-24T18:00:00Z`) [default: at `resume`]
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true, value_parser = until)]
    pub(in crate::cli) until: Option<DateTime<Utc>>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ResumeArguments {
    #[command(flatten)]
    what: Named,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct Named {
    /// The queues
    #[arg(value_name = "QUEUE", value_parser = value::queue)]
    queues: Vec<String>,
    /// A task, by its name; may be given several times
    #[arg(long = "task", value_name = "NAME")]
    tasks: Vec<String>,
}

impl Named {
    fn all(&self) -> Vec<Pausable> {
        let queues = self.queues.iter().cloned().map(Pausable::Queue);
        queues.chain(self.tasks.iter().cloned().map(Pausable::Task)).collect()
    }
}

impl PauseArguments {
    /// The queues and tasks that are named.
    pub(in crate::cli) fn what(&self) -> Vec<Pausable> {
        self.what.all()
    }
}

impl ResumeArguments {
    /// The queues and tasks that are named.
    pub(in crate::cli) fn what(&self) -> Vec<Pausable> {
        self.what.all()
    }
}

pub(super) fn until(text: &str) -> Result<DateTime<Utc>, String> {
    if let Some(time) = parse_time(text) {
        return match time > Utc::now() {
            true => Ok(time),
            false => Err("this time is in the past".into()),
        };
    }
    let problem = "expected a duration (`30m`) or a time (`2026-12-24T18:00:00Z`)";
    let length = value::positive_duration(text).map_err(|_| problem)?;
    let length = chrono::Duration::from_std(length).ok();
    length.and_then(|length| Utc::now().checked_add_signed(length)).ok_or_else(|| problem.into())
}

#[cfg(test)]
mod tests {
    use super::until;

    #[test]
    fn the_end_is_a_duration_or_a_time() {
        for good in ["30m", "1h 30m", "9000-12-24T18:00:00Z", "9000-12-24T18:00:00+02:00"] {
            assert!(until(good).is_ok(), "{good}");
        }
        for bad in ["", "soon", "0s", "-1h", "2001-01-01T00:00:00Z", "99999999999y"] {
            assert!(until(bad).is_err(), "{bad}");
        }
    }
}
