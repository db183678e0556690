//! Waits for a result and shows the progress of the call: as a bar on a terminal, else as a line for each change.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit::Outcome;
use super::output;
use crate::app::App;
use crate::backend::{Awaited, ResultRecord};
use crate::message::Progress;
use crate::state::State;

/// How often an unchanged bar is redrawn, to show that the command is still waiting.
const TICK: Duration = Duration::from_millis(200);
/// The maximum width of a description.
const DESCRIPTION: usize = 60;

/// What is shown if there is no terminal.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Piped {
    Nothing,
    Lines,
}

/// Waits until the result of a call is ready.
pub(super) async fn until_ready(app: &App, id: &str, piped: Piped) -> Outcome<ResultRecord> {
    let backend = app.backend().await?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if bar.is_hidden() && piped == Piped::Nothing {
        return Ok(backend.wait(id, Awaited::Final).await?);
    }
    bar.set_style(waiting());
    bar.enable_steady_tick(TICK);
    let mut seen = None;
    loop {
        bar.set_message(seen.as_ref().map_or_else(|| "waiting".into(), said));
        let known = seen.as_ref().map(ResultRecord::mark);
        let record = backend.wait(id, Awaited::Change(known)).await?;
        if record.state.is_ready() {
            bar.finish_and_clear();
            return Ok(record);
        }
        if bar.is_hidden() {
            output::note(line(&record));
        } else if let Some(Progress { current, total, .. }) = progress(&record) {
            bar.set_style(if total > 0 { counting() } else { waiting() });
            bar.set_length(total);
            bar.set_position(current);
        }
        seen = Some(record);
    }
}

fn waiting() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("a constant template")
}

fn counting() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {elapsed} [{bar:30}] {pos}/{len} {msg}")
        .expect("a constant template")
}

fn progress(record: &ResultRecord) -> Option<Progress> {
    let is_custom = matches!(record.state, State::Custom(_));
    let meta = record.value.as_ref().filter(|_| is_custom)?;
    Progress::from_meta(&serde_json::from_str(meta.get()).ok()?)
}

/// The status of a call, shown next to the bar.
fn said(record: &ResultRecord) -> String {
    let text = match (&record.state, &record.failure) {
        (State::Custom(_), _) if let Some(progress) = progress(record) => progress.description,
        (State::Retry, Some(failure)) => format!("will be retried: {failure}"),
        (state, _) => state.to_string().to_lowercase(),
    };
    output::one_line(&text, DESCRIPTION)
}

/// The status of a call as a line of its own: `PROGRESS 3/12 resizing`.
fn line(record: &ResultRecord) -> String {
    let details = match (progress(record), &record.failure, &record.value) {
        (Some(Progress { current, total: 0, description }), ..) => format!("{current} {description}"),
        (Some(Progress { current, total, description }), ..) => format!("{current}/{total} {description}"),
        (None, Some(failure), _) => failure.to_string(),
        (None, None, Some(meta)) if meta.get() != "null" => meta.get().to_owned(),
        _ => String::new(),
    };
    output::one_line(&format!("{} {details}", record.state), 200)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::error::TaskFailure;

    fn report(state: &str, meta: serde_json::Value) -> ResultRecord {
        ResultRecord::report("t", state.to_owned().into(), to_raw_value(&meta).expect("JSON"))
    }

    #[test]
    fn each_state_has_a_line() {
        let failure = TaskFailure::named("MailError", "rust.mail", "busy\nnow");
        for (record, shown) in [
            (
                report("PROGRESS", json!({"current": 3, "total": 12, "description": "cat.png"})),
                "PROGRESS 3/12 cat.png",
            ),
            (report("PROGRESS", json!({"current": 3})), "PROGRESS 3"),
            (report("UPLOADING", json!({"to": "archive"})), r#"UPLOADING {"to":"archive"}"#),
            (ResultRecord::new("t", State::Started), "STARTED"),
            (ResultRecord::failed("t", State::Retry, failure), "RETRY MailError: busy now"),
        ] {
            assert_eq!(line(&record), shown);
        }
        assert_eq!(said(&report("UPLOADING", json!(1))), "uploading");
    }
}
