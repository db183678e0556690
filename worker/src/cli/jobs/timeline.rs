//! `mq-worker jobs show`: one call as a timeline.

use std::fmt::Write;

use chrono::{DateTime, Utc};

use crate::cli::output::one_line;
use crate::history::Job;
use crate::show;

/// Describes a call, one fact per line.
pub(super) fn text(job: &Job) -> String {
    let mut text = format!("{}  {}  {}\n", job.id, name(&job.name), job.state);
    let facts = [
        ("queue", job.queue.clone()),
        ("arguments", job.args.clone()),
        ("named arguments", job.kwargs.clone().filter(|kwargs| kwargs != "{}")),
        ("result", job.result.clone()),
        ("error", job.error.clone()),
        ("reason", job.reason.clone()),
        ("progress", job.reported.as_ref().map(ToString::to_string)),
        ("retries", Some(job.retries.to_string()).filter(|_| job.retries > 0)),
        ("not before", job.eta.map(|time| show::time(time).to_string())),
        ("expires", job.expires.map(|time| show::time(time).to_string())),
        ("workflow", job.root.clone().filter(|root| *root != job.id)),
        ("sent by", job.parent.clone()),
    ];
    for (name, fact) in facts {
        if let Some(fact) = fact {
            let _ = writeln!(text, "  {name:<16} {}", one_line(&fact, 400));
        }
    }
    text.push('\n');
    for (at, what) in moments(job) {
        let _ = writeln!(text, "  {}  {what}", at.format("%Y-%m-%d %H:%M:%S%.3fZ"));
    }
    if let Some(traceback) = job.traceback.as_deref().filter(|trace| !trace.trim().is_empty()) {
        let printable: String = traceback.chars().filter(|c| !c.is_control() || *c == '\n').collect();
        let _ = write!(text, "\n{}\n", printable.trim_end());
    }
    text.truncate(text.trim_end().len());
    text
}

fn name(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or("(unknown task)")
}

/// Returns what happened to the call, in order.
fn moments(job: &Job) -> Vec<(DateTime<Utc>, String)> {
    let mut moments = Vec::new();
    moments.extend(job.sent_at.map(|at| (at, "sent".to_owned())));
    moments.extend(job.received_at.map(|at| (at, "received".to_owned())));
    for attempt in &job.attempts {
        let worker = attempt.worker.as_deref().unwrap_or("an unknown worker");
        if let Some(at) = attempt.started_at {
            moments.push((at, format!("started on {worker}")));
        }
        if let (Some(at), Some(outcome)) = (attempt.ended_at, attempt.outcome) {
            let took = attempt.started_at.and_then(|start| (at - start).to_std().ok());
            let took = took.map_or_else(String::new, |took| format!(" after {}", show::duration(took)));
            let error = attempt
                .error
                .as_deref()
                .map_or_else(String::new, |error| format!(": {}", one_line(error, 200)));
            moments.push((at, format!("{outcome}{took} on {worker}{error}")));
        }
    }
    let is_told = job.attempts.iter().any(|attempt| attempt.outcome == Some(job.state));
    let is_first = moments.is_empty();
    if !is_told && (is_first || job.state.is_final()) {
        let reason =
            job.reason.as_deref().map_or_else(String::new, |reason| format!(": {}", one_line(reason, 200)));
        moments.push((job.state_at, format!("{}{reason}", job.state)));
    }
    moments.sort_by_key(|(at, _)| *at);
    moments
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::history::{Attempt, JobState};

    #[test]
    fn a_timeline_tells_every_attempt() {
        let at = |seconds| {
            DateTime::from_timestamp(1_700_000_000, 0).expect("a time") + TimeDelta::seconds(seconds)
        };
        let attempt = |start, end, outcome, error: Option<&str>| Attempt {
            worker: Some("w@h".into()),
            started_at: Some(at(start)),
            ended_at: Some(at(end)),
            outcome: Some(outcome),
            error: error.map(ToOwned::to_owned),
            ..Attempt::default()
        };
        let job = Job {
            name: Some("mail".into()),
            sent_at: Some(at(0)),
            attempts: vec![
                attempt(1, 2, JobState::Retry, Some("Lost\n('x')")),
                attempt(5, 6, JobState::Success, None),
            ],
            ..Job::sample("a", JobState::Success, at(6))
        };
        let text = text(&job);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "a  mail  SUCCESS");
        assert_eq!(
            lines[2..],
            [
                "  2023-11-14 22:13:20.000Z  sent",
                "  2023-11-14 22:13:21.000Z  started on w@h",
                "  2023-11-14 22:13:22.000Z  RETRY after 1s on w@h: Lost ('x')",
                "  2023-11-14 22:13:25.000Z  started on w@h",
                "  2023-11-14 22:13:26.000Z  SUCCESS after 1s on w@h",
            ]
        );
    }
}
