//! `mq-worker explain ID`: why a call is not running.

use std::time::Duration;

use serde::Serialize;

use super::arguments::{CommonArguments, ExplainArguments};
use super::exit::{FAILED, Failure, Outcome};
use super::{jobs, operate, output};
use crate::admin::explain::{self, Explanation, Reason, ScheduleFacts};
use crate::app::App;
use crate::control::Control;

pub(super) fn run(arguments: ExplainArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { explain(&app, &arguments).await })
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    task: &'a Option<String>,
    queue: &'a Option<String>,
    /// The schedule that sent it.
    schedule: &'a Option<ScheduleFacts>,
    reasons: Vec<ShownReason<'a>>,
    /// What could not be determined.
    gaps: &'a [String],
}

#[derive(Serialize)]
struct ShownReason<'a> {
    #[serde(flatten)]
    reason: &'a Reason,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

async fn explain(app: &App, ExplainArguments { id, timeout, json, history }: &ExplainArguments) -> Outcome {
    let history = jobs::open_if_there(app.config(), history).await?;
    let control = Control::new(app.broker().await?).timeout(timeout.unwrap_or(Duration::from_secs(1)));
    let explanation = explain::explain(app, history.as_ref(), &control, id).await?;
    let Explanation { reasons, gaps, task, queue, schedule } = &explanation;
    if *json {
        let reasons = reasons
            .iter()
            .map(|reason| ShownReason { reason, text: reason.to_string(), remedy: reason.remedy(id) })
            .collect();
        output::json(&Shown { id, task, queue, schedule, reasons, gaps })?;
    } else {
        let of = |name: &str, value: &Option<String>| {
            value.as_ref().map_or_else(String::new, |value| format!("  {name} {value}"))
        };
        output::data(format!("{id}{}{}", of("task", task), of("queue", queue)))?;
        if let Some(ScheduleFacts { name, due }) = schedule {
            let due = due.map_or_else(String::new, |due| format!(", due {}", crate::show::time(due)));
            output::data(format!("  schedule `{name}` sent it{due}"))?;
        }
        for reason in reasons {
            output::data(format!("  {}", output::one_line(&reason.to_string(), 500)))?;
            if let Some(remedy) = reason.remedy(id) {
                output::data(format!("    -> {remedy}"))?;
            }
        }
        gaps.iter().for_each(|gap| output::note(format!("note: {gap}")));
    }
    match reasons.as_slice() {
        [Reason::Unknown] => Err(Failure::silent(FAILED)),
        _ => Ok(()),
    }
}
