//! `mq-worker pause` and `resume`: pauses and resumes queues and tasks.

use chrono::{DateTime, SecondsFormat, Utc};

use super::arguments::{CommonArguments, PauseArguments, ResumeArguments};
use super::exit::Outcome;
use super::{operate, output};
use crate::app::{App, Pausable, Pause};

pub(super) fn run(arguments: PauseArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { pause(&app, &arguments).await })
}

pub(super) fn undo(arguments: ResumeArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { resume(&app, &arguments).await })
}

async fn pause(app: &App, arguments: &PauseArguments) -> Outcome {
    for what in arguments.what() {
        app.pause(Pause { what: what.clone(), until: arguments.until }).await?;
        output::data(format!("{what} is paused until {}", end(arguments.until)))?;
        if let Pausable::Queue(name) = &what
            && app.broker().await?.queues(std::slice::from_ref(name)).await?.is_empty()
        {
            let url = &app.config().broker_url;
            output::note(format!(
                "there is no queue `{name}` on {url} yet: it is paused from its first message"
            ));
        }
    }
    Ok(())
}

async fn resume(app: &App, arguments: &ResumeArguments) -> Outcome {
    let paused = app.paused().await?;
    for what in arguments.what() {
        let was_paused = paused.iter().any(|pause| pause.what == what);
        // Resume it even if it does not seem to be paused: it may have been paused just now.
        app.resume(what.clone()).await?;
        output::data(match was_paused {
            true => format!("{what} is resumed"),
            false => format!("{what} was not paused"),
        })?;
    }
    Ok(())
}

/// The end of a pause as text.
pub(super) fn end(until: Option<DateTime<Utc>>) -> String {
    until.map_or_else(|| "it is resumed".into(), |until| until.to_rfc3339_opts(SecondsFormat::Secs, true))
}
