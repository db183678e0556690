//! What a dead-letter queue holds, grouped by task and error.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::kind::kind;
use super::letter::Letter;
use super::replay::{self, Sent};
use super::search::{Search, Which};
use crate::admin::failure::Outcome;
use crate::app::{App, unique};
use crate::message::Message;

/// How many letters of a queue are looked at for the groups.
pub(crate) const LOOKED_AT: u32 = 1000;

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
    /// Empty for messages that are no calls.
    pub(crate) task: String,
    pub(crate) kind: String,
    pub(crate) count: u64,
    pub(crate) newest: Option<DateTime<Utc>>,
}

/// Groups the oldest letters of a queue.
pub(crate) async fn survey(app: &App, queue: &str, most: u32) -> Outcome<Survey> {
    let mut search = Search::open(app, Which { queue: queue.to_owned(), ..Which::default() }, most).await?;
    let mut groups: BTreeMap<(String, String), (u64, Option<DateTime<Utc>>)> = BTreeMap::new();
    let looked = async {
        while let Some(delivery) = search.next().await? {
            let letter = Letter::of(&delivery.message);
            let key = (letter.task().unwrap_or_default().to_owned(), kind(&letter.why().unwrap_or_default()));
            let (count, newest) = groups.entry(key).or_default();
            *count += 1;
            *newest = (*newest).max(delivery.message.headers.dead_at());
            search.hold(delivery);
        }
        Ok(())
    }
    .await;
    let found = search.found();
    search.put_back().await;
    looked.map(|()| {
        let mut groups: Vec<Group> = groups
            .into_iter()
            .map(|((task, kind), (count, newest))| Group { task, kind, count, newest })
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        Survey { groups, seen: found.matching, unseen: found.unseen }
    })
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
    let which = Which { queue: queue.to_owned(), task: text(task), kind: text(kind), ..Which::default() };
    find(app, which, most).await
}

/// The dead letter of a call, if it is in the dead-letter queue of this queue.
pub(crate) async fn letter(app: &App, queue: &str, id: &str) -> Outcome<Option<Message>> {
    let which = Which { queue: queue.to_owned(), id: Some(id.to_owned()), ..Which::default() };
    find(app, which, 1).await.map(|found| found.into_iter().next())
}

async fn find(app: &App, which: Which, most: u32) -> Outcome<Vec<Message>> {
    let mut search = Search::open(app, which, most).await?;
    let mut messages = Vec::new();
    let looked = async {
        while let Some(delivery) = search.next().await? {
            messages.push(delivery.message.clone());
            search.hold(delivery);
        }
        Ok(())
    }
    .await;
    search.put_back().await;
    looked.map(|()| messages)
}

/// What became of letters that were to be replayed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Replayed {
    pub(crate) replayed: u64,
    /// Those whose task is unique while another call of it waits or runs.
    pub(crate) kept: u64,
    /// Those that had expired, unless one was named.
    pub(crate) expired: u64,
}

/// Sends letters back to the queue that they came from.
pub(crate) async fn replay(app: &App, which: Which) -> Outcome<Replayed> {
    let is_named = which.id.is_some();
    let mut search = Search::open(app, which, u32::MAX).await?;
    search.leaves_expired = !is_named;
    let mut kept = 0;
    let done = async {
        while let Some(delivery) = search.next().await? {
            // Published and confirmed first: a crash in between may run the task twice, it may never lose it.
            match replay::send_back(app, &delivery, &search.queue).await? {
                Sent::Back => delivery.ack(),
                Sent::KeptOut { .. } => {
                    kept += 1;
                    search.hold(delivery);
                }
            }
        }
        Ok(())
    }
    .await;
    let found = search.found();
    search.put_back().await;
    done.map(|()| Replayed { replayed: found.matching - kept, kept, expired: found.expired })
}

/// Drops letters, and returns how many there were.
pub(crate) async fn drop_letters(app: &App, which: Which) -> Outcome<u64> {
    let mut search = Search::open(app, which, u32::MAX).await?;
    let done = async {
        while let Some(delivery) = search.next().await? {
            let headers = &delivery.message.headers;
            let lock = headers.id().and_then(|id| unique::read(headers, id));
            delivery.ack();
            if let Some(lock) = lock {
                // Only the broker itself dead-letters a call that still has its lock, which opens in time by itself too.
                let _ = search.broker.unlock(&lock).await;
            }
        }
        Ok(())
    }
    .await;
    let found = search.found();
    search.put_back().await;
    done.map(|()| found.matching)
}
