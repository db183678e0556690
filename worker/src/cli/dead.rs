//! `mq-worker dead …`: lists, shows, replays and drops dead letters.

use std::sync::{Arc, Mutex};

use super::arguments::{CommonArguments, DeadArguments, DeadCommand};
use super::exit::{Failure, Outcome, TIME_IS_UP};
use super::operate::{self, counted};
use super::output;
use super::walking::{Shown, walk};
use crate::admin::dead::discard;
use crate::admin::dead::letter::Letter;
use crate::admin::dead::replay::{self, Sent};
use crate::admin::dead::search::{Found, LetterFilter, Search, dead_queue};
use crate::admin::progress::Progress;
use crate::app::App;

/// How many letters `list` and `show` print by default.
const SHOWN: u32 = 100;

pub(super) fn run(command: DeadCommand, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move {
        match command {
            DeadCommand::List { which, json } => list(&app, which, json).await,
            DeadCommand::Show { which, json } => show(&app, which, json).await,
            DeadCommand::Replay { which, expired, json, yes: _ } => replay(&app, which, expired, json).await,
            DeadCommand::Drop { which, json, yes } => drop_them(&app, which, json, yes).await,
        }
    })
}

/// Passes each selected letter to `see`, the oldest first.
async fn look(
    app: &App,
    which: &DeadArguments,
    progress: Arc<Progress>,
    mut see: impl FnMut(&Letter<'_>) -> Outcome,
) -> Outcome<Found> {
    let mut search = Search::open(app, which.into(), which.limit.unwrap_or(SHOWN), progress).await?;
    let looked = async {
        while let Some(taken) = search.next().await? {
            let seen = see(&Letter::of(&taken.delivery.message));
            search.hold(taken);
            seen?;
        }
        Ok(())
    }
    .await;
    let found = search.found();
    search.release().await;
    looked.map(|()| found)
}

async fn list(app: &App, which: DeadArguments, json: bool) -> Outcome {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    let found = walk(shown(json, "found"), async |progress| {
        look(app, &which, progress, |letter| {
            match json {
                true => values.push(letter.summary()),
                false => rows.push(letter.row()),
            }
            Ok(())
        })
        .await
    });
    let found = found.await?;
    if json {
        return output::json(&values);
    }
    if !rows.is_empty() {
        output::table(&["id", "task", "died", "tries", "reason"], rows, usize::MAX)?;
    }
    note_rest(&found);
    expected(&found, &which)
}

async fn show(app: &App, which: DeadArguments, json: bool) -> Outcome {
    let mut values = Vec::new();
    // A progress bar would be drawn between the letters.
    let found = walk(Shown::Nothing, async |progress| {
        look(app, &which, progress, |letter| match json {
            true => {
                values.push(letter.details());
                Ok(())
            }
            false => output::data(letter.text()),
        })
        .await
    });
    let found = found.await?;
    if json {
        return output::json(&values);
    }
    note_rest(&found);
    expected(&found, &which)
}

async fn replay(app: &App, which: DeadArguments, expired: bool, json: bool) -> Outcome {
    let kept = Mutex::new(Vec::new());
    let replayed = walk(shown(json, "replayed"), async |progress: Arc<Progress>| {
        let limit = which.limit.unwrap_or(u32::MAX);
        let wanted = LetterFilter::from(&which);
        let leaves_expired = !expired && !wanted.has_ids();
        let mut search = Search::open(app, wanted, limit, progress).await?;
        if leaves_expired {
            search.leave_expired();
        }
        let done = replay::send_all_back(app, &mut search, |message, sent| {
            if let Sent::LockedOut { holder } = sent {
                let id = Letter::of(message).id().unwrap_or_default().to_owned();
                kept.lock().expect("never poisoned").push(Kept { id, holder: holder.clone() });
            }
        })
        .await;
        search.end(done, "replayed").await
    });
    let found = replayed.await?;
    let kept = kept.into_inner().expect("never poisoned");
    if found.expired > 0 {
        output::note(format!("{} expired and not replayed; use --expired to replay them too", found.expired));
    }
    match json {
        true => {
            let mut shown = serde_json::json!({"replayed": found.done, "kept": kept});
            if found.expired > 0 {
                shown["expired"] = found.expired.into();
            }
            output::json(&shown)?;
        }
        false => output::data(format!("{} replayed", counted(found.done, "message")))?,
    }
    expected(&found, &which)?;
    kept_out(&kept, &found.queue)
}

/// A letter that was not replayed because another call holds its lock.
#[derive(serde::Serialize)]
struct Kept {
    id: String,
    /// The call that holds its lock, if the broker can tell.
    holder: Option<String>,
}

/// Reports the letters that were not replayed, and fails if there are any.
fn kept_out(kept: &[Kept], queue: &str) -> Outcome {
    if kept.is_empty() {
        return Ok(());
    }
    for Kept { id, holder } in kept {
        let holder = holder.as_deref().unwrap_or("whose id is unknown");
        output::note(format!(
            "{id} stays in place: its task is unique, and another call waits or runs, {holder}"
        ));
    }
    let stay = if kept.len() == 1 { "stays" } else { "stay" };
    Err(Failure::new(
        TIME_IS_UP,
        format!(
            "{} {stay} in `{queue}`; replay again when those calls have ended",
            counted(kept.len() as u64, "message")
        ),
    ))
}

async fn drop_them(app: &App, which: DeadArguments, json: bool, yes: bool) -> Outcome {
    let dead = dead_queue(&which.queue);
    let (_, info) = operate::queue(app, &dead).await?;
    let what = match (&which.id, &which.task, &which.error) {
        (Some(id), ..) => format!("the message {id}"),
        (None, Some(task), None) => format!("the messages of task `{task}`"),
        (None, Some(task), Some(error)) => {
            format!("the messages of task `{task}` with \"{error}\" in their error")
        }
        (None, None, Some(error)) => format!("the messages with \"{error}\" in their error"),
        (None, None, None) => counted(info.ready, "message"),
    };
    output::confirm(&format!("Drop {what} in `{dead}` permanently?"), yes)?;
    let dropped = walk(shown(json, "dropped"), async |progress: Arc<Progress>| {
        let limit = which.limit.unwrap_or(u32::MAX);
        discard::drop_letters(app, (&which).into(), limit, &progress).await
    });
    let found = dropped.await?;
    done(&found, "dropped", json)?;
    expected(&found, &which)
}

/// What a walk shows: nothing with `--json`.
fn shown(json: bool, what: &'static str) -> Shown {
    if json { Shown::Nothing } else { Shown::Counts(what) }
}

impl From<&DeadArguments> for LetterFilter {
    fn from(which: &DeadArguments) -> Self {
        let DeadArguments { queue, task, error, id, limit: _ } = which;
        Self {
            queue: queue.clone(),
            task: task.clone(),
            error: error.clone(),
            id: id.clone(),
            ..Self::default()
        }
    }
}

/// Notes what the list does not show.
fn note_rest(found: &Found) {
    if found.unseen > 0 && found.matching > 0 {
        output::note(format!(
            "{} more in `{}` not shown; raise --limit to see more",
            found.unseen, found.queue
        ));
    } else if found.matching == 0 {
        output::note(format!("no dead letters in `{}`", found.queue));
    }
}

/// Prints how many letters were processed.
fn done(found: &Found, what: &str, json: bool) -> Outcome {
    if json {
        return output::json(&serde_json::json!({ what: found.done }));
    }
    output::data(format!("{} {what}", counted(found.done, "message")))
}

/// Fails if a message that was named by its id is missing.
fn expected(found: &Found, which: &DeadArguments) -> Outcome {
    match &which.id {
        Some(id) if found.matching == 0 => {
            Err(Failure::failed(format!("there is no message {id} in `{}`", found.queue)))
        }
        _ => Ok(()),
    }
}
