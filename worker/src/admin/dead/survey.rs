//! What a dead-letter queue holds, grouped by task and error.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::kind::kind;
use super::letter::Letter;
pub(crate) use super::look::TIME_LIMIT;
use super::look::{LOOKED_AT, look};
use super::replay::{self, Sent};
use super::search::{LetterFilter, Search};
use crate::admin::failure::Outcome;
use crate::admin::progress::Progress;
use crate::app::App;
use crate::message::Message;

/// What a dead-letter queue holds.
#[derive(Debug, Serialize)]
pub(crate) struct Survey {
    /// The largest first.
    pub(crate) groups: Vec<Group>,
    /// How many letters were looked at.
    pub(crate) seen: u64,
    /// How many more there are.
    pub(crate) unseen: u64,
}

/// Dead letters of one task with errors of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    /// Empty for messages that are not calls.
    pub(crate) task: String,
    pub(crate) kind: String,
    pub(crate) count: u64,
    pub(crate) newest: Option<DateTime<Utc>>,
}

/// Groups the oldest letters of a queue, as many as this time allows.
pub(crate) async fn survey(app: &App, queue: &str, time: Duration) -> Outcome<Survey> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    let which = LetterFilter { queue: queue.to_owned(), ..LetterFilter::default() };
    let seen = look(app, which, LOOKED_AT, time, |message| {
        let letter = Letter::of(message);
        let task = letter.task().unwrap_or_default().to_owned();
        let kind = kind(&letter.why().unwrap_or_default());
        let group = groups.entry((task.clone(), kind.clone())).or_insert(Group {
            task,
            kind,
            count: 0,
            newest: None,
        });
        group.count += 1;
        group.newest = group.newest.max(message.headers.dead_at());
    })
    .await?;
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    Ok(Survey { groups, seen: seen.matching, unseen: seen.unseen })
}

/// The oldest letters of a queue, of a task or of a group.
pub(crate) async fn letters(
    app: &App,
    queue: &str,
    task: Option<&str>,
    kind: Option<&str>,
    most: u32,
) -> Outcome<Vec<Message>> {
    let text = |text: Option<&str>| text.map(ToOwned::to_owned);
    let which = LetterFilter {
        queue: queue.to_owned(),
        task: text(task),
        kind: text(kind),
        ..LetterFilter::default()
    };
    found(app, which, most).await
}

/// The dead letter of a call, if it is among the oldest in the dead-letter queue of this queue.
pub(crate) async fn letter(app: &App, queue: &str, id: &str) -> Outcome<Option<Message>> {
    let which = LetterFilter { queue: queue.to_owned(), id: Some(id.to_owned()), ..LetterFilter::default() };
    found(app, which, 1).await.map(|found| found.into_iter().next())
}

async fn found(app: &App, which: LetterFilter, most: u32) -> Outcome<Vec<Message>> {
    let mut messages = Vec::new();
    look(app, which, most, TIME_LIMIT, |message| messages.push(message.clone())).await?;
    Ok(messages)
}

/// The outcome of a replay.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Replayed {
    pub(crate) replayed: u64,
    /// Letters that stay because their task is unique and another call of it waits or runs.
    pub(crate) kept: u64,
    /// Letters that stay because they had expired; none if calls were selected by id.
    pub(crate) expired: u64,
    /// The calls whose letters were found.
    #[serde(skip)]
    pub(crate) found: HashSet<String>,
}

/// Sends letters back to the queue that they came from.
pub(crate) async fn replay(app: &App, which: LetterFilter, progress: &Arc<Progress>) -> Outcome<Replayed> {
    let is_named = which.has_ids();
    // Stop once all the named calls are found.
    let wanted = which.ids.as_ref().map_or(usize::MAX, HashSet::len);
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    let mut search = Search::open(app, which, wanted, Arc::clone(progress)).await?;
    if !is_named {
        search.leave_expired();
    }
    let (kept, ids) = (Mutex::new(0), Mutex::new(HashSet::new()));
    let done = replay::send_all_back(app, &mut search, |message, sent| {
        if is_named {
            ids.lock().expect("never poisoned").extend(message.id().map(ToOwned::to_owned));
        }
        *kept.lock().expect("never poisoned") += u64::from(matches!(sent, Sent::LockedOut { .. }));
    })
    .await;
    let found = search.end(done, "replayed").await?;
    Ok(Replayed {
        replayed: found.done,
        kept: kept.into_inner().expect("never poisoned"),
        expired: found.expired,
        found: ids.into_inner().expect("never poisoned"),
    })
}
