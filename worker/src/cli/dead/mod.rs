//! `mq-worker dead …`: what failed for good and lies in a dead-letter queue.
//!
//! Messages are taken one by one and held while we look, and go back at the end in the order in which they came.
//! Should we die in between, the broker puts them back.

mod letter;
mod replay;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arguments::{CommonArguments, DeadArguments, DeadCommand};
use super::exit::{Failure, Outcome, TIME_IS_UP};
use super::operate::{self, counted};
use super::output;
use crate::app::{App, unique};
use crate::broker::{Broker, DeadLetters, Delivery, Settlement};
use crate::routing::Queue;
use letter::Letter;
use replay::Sent;

/// How many `list` and `show` print when nobody says.
const SHOWN: u32 = 100;

/// How long to wait for a worker or another command that looks through the same queue.
const PATIENCE: Duration = Duration::from_secs(10);

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

async fn list(app: &App, which: DeadArguments, json: bool) -> Outcome {
    let mut search = Search::open(app, &which, which.limit.unwrap_or(SHOWN)).await?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    while let Some(delivery) = search.next().await? {
        let letter = Letter::of(&delivery.message);
        if json {
            values.push(letter.summary());
        } else {
            rows.push(letter.row());
        }
        search.hold(delivery);
    }
    let found = search.found();
    search.put_back().await;
    if json {
        return output::json(&values);
    }
    if !rows.is_empty() {
        output::table(&["id", "task", "died", "tries", "reason"], rows, usize::MAX)?;
    }
    found.tell();
    found.expected(&which)
}

async fn show(app: &App, which: DeadArguments, json: bool) -> Outcome {
    let mut search = Search::open(app, &which, which.limit.unwrap_or(SHOWN)).await?;
    let mut values = Vec::new();
    while let Some(delivery) = search.next().await? {
        let letter = Letter::of(&delivery.message);
        if json {
            values.push(letter.details());
        } else {
            output::data(letter.text())?;
        }
        search.hold(delivery);
    }
    let found = search.found();
    search.put_back().await;
    if json {
        return output::json(&values);
    }
    found.tell();
    found.expected(&which)
}

async fn replay(app: &App, which: DeadArguments, expired: bool, json: bool) -> Outcome {
    let mut search = Search::open(app, &which, which.limit.unwrap_or(u32::MAX)).await?;
    search.leaves_expired = !expired && which.id.is_none();
    let mut kept = Vec::new();
    while let Some(delivery) = search.next().await? {
        // Published and confirmed first: a crash in between may run the task twice, it may never lose it.
        match replay::send_back(app, &delivery, &search.queue).await? {
            Sent::Back => delivery.ack(),
            Sent::KeptOut { holder } => {
                kept.push(Kept {
                    id: Letter::of(&delivery.message).id().unwrap_or_default().to_owned(),
                    holder,
                });
                search.hold(delivery);
            }
        }
    }
    let found = search.found();
    search.put_back().await;
    let replayed = found.matching - kept.len() as u64;
    if found.expired > 0 {
        output::note(format!("{} had expired and stay; --expired replays them too", found.expired));
    }
    match json {
        true => {
            let mut told = serde_json::json!({"replayed": replayed, "kept": kept});
            if found.expired > 0 {
                told["expired"] = found.expired.into();
            }
            output::json(&told)?;
        }
        false => output::data(format!("{} replayed", counted(replayed, "message")))?,
    }
    found.expected(&which)?;
    kept_out(&kept, &found.queue)
}

/// A letter that was to be replayed and stays where it is.
#[derive(serde::Serialize)]
struct Kept {
    id: String,
    /// The call that has its lock, where the broker can tell.
    holder: Option<String>,
}

/// Says which letters stay, and that not all was done.
fn kept_out(kept: &[Kept], queue: &str) -> Outcome {
    if kept.is_empty() {
        return Ok(());
    }
    for Kept { id, holder } in kept {
        let holder = holder.as_deref().unwrap_or("whose id is not known");
        output::note(format!("{id} stays: its task is unique, and another call waits or runs, {holder}"));
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
    output::confirm(&format!("Drop {what} in `{dead}` for good?"), yes)?;
    let mut search = Search::open(app, &which, which.limit.unwrap_or(u32::MAX)).await?;
    while let Some(delivery) = search.next().await? {
        let headers = &delivery.message.headers;
        let lock = headers.id().and_then(|id| unique::read(headers, id));
        delivery.ack();
        if let Some(lock) = lock {
            // Only the broker itself dead-letters a call that still has its lock, which opens in time by itself too.
            let _ = search.broker.unlock(&lock).await;
        }
    }
    let found = search.found();
    search.put_back().await;
    found.done("dropped", json)?;
    found.expected(&which)
}

/// The dead-letter queue that goes with a queue, which may be named itself.
fn dead_queue(queue: &str) -> String {
    if queue.ends_with(".dead") { queue.to_owned() } else { Queue::dead_letter_name(queue) }
}

/// A walk over a dead-letter queue.
struct Search {
    broker: Arc<dyn Broker>,
    queue: String,
    task: Option<String>,
    /// In lower case.
    error: Option<String>,
    id: Option<String>,
    /// How many are still wanted.
    wanted: u64,
    /// How many were there at the beginning and have not been looked at: what arrives meanwhile, or comes back,
    /// must not keep us walking.
    unseen: u64,
    matching: u64,
    /// True when those that had expired are not meant.
    leaves_expired: bool,
    expired: u64,
    lock: DeadLetters,
    /// What goes back at the end. Only the right to give it back is kept, not the message: there may be many.
    held: Vec<Settlement>,
}

impl Search {
    async fn open(app: &App, which: &DeadArguments, wanted: u32) -> Outcome<Self> {
        let queue = dead_queue(&which.queue);
        let lock = DeadLetters::lock(&queue);
        let broker = app.broker().await?;
        let deadline = Instant::now() + PATIENCE;
        while !lock.take(&*broker).await && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (broker, info) = operate::queue(app, &queue).await?;
        Ok(Self {
            broker,
            queue,
            task: which.task.clone(),
            error: which.error.as_ref().map(|error| error.to_lowercase()),
            id: which.id.clone(),
            wanted: wanted.into(),
            unseen: info.ready,
            matching: 0,
            leaves_expired: false,
            expired: 0,
            lock,
            held: Vec::new(),
        })
    }

    /// The next message that is meant. Others are held.
    async fn next(&mut self) -> Outcome<Option<Delivery>> {
        while self.wanted > 0 && self.unseen > 0 {
            let Some(delivery) = self.broker.get(&self.queue).await? else { break };
            self.unseen -= 1;
            let is_meant = self.is_meant(&delivery);
            if is_meant && self.leaves_expired && Letter::of(&delivery.message).has_expired() {
                self.expired += 1;
            } else if is_meant {
                self.wanted -= 1;
                self.matching += 1;
                return Ok(Some(delivery));
            }
            self.hold(delivery);
        }
        Ok(None)
    }

    fn is_meant(&self, delivery: &Delivery) -> bool {
        let letter = Letter::of(&delivery.message);
        self.id.as_deref().is_none_or(|id| letter.id() == Some(id))
            && self.task.as_deref().is_none_or(|task| letter.task() == Some(task))
            && self
                .error
                .as_deref()
                .is_none_or(|error| letter.why().is_some_and(|why| why.to_lowercase().contains(error)))
    }

    fn hold(&mut self, delivery: Delivery) {
        self.held.push(delivery.settlement);
    }

    fn found(&self) -> Found {
        let Self { matching, unseen, expired, .. } = *self;
        Found { matching, unseen, expired, queue: self.queue.clone() }
    }

    /// Gives back what was held, the oldest first, and lets others look.
    async fn put_back(self) {
        for settlement in self.held {
            settlement.settle(crate::broker::Verdict::Requeue);
        }
        self.lock.open(&*self.broker).await;
    }
}

/// What a walk came to.
struct Found {
    matching: u64,
    unseen: u64,
    /// How many would be meant, had they not expired.
    expired: u64,
    queue: String,
}

impl Found {
    /// Says to people what the list does not show.
    fn tell(&self) {
        if self.unseen > 0 && self.matching > 0 {
            output::note(format!(
                "{} more in `{}` not shown; raise --limit to see more",
                self.unseen, self.queue
            ));
        } else if self.matching == 0 {
            output::note(format!("no dead letters in `{}`", self.queue));
        }
    }

    /// Says what was done to them.
    fn done(&self, what: &str, json: bool) -> Outcome {
        if json {
            return output::json(&serde_json::json!({ what: self.matching }));
        }
        output::data(format!("{} {what}", counted(self.matching, "message")))
    }

    /// One message that somebody named must be there.
    fn expected(&self, which: &DeadArguments) -> Outcome {
        match &which.id {
            Some(id) if self.matching == 0 => {
                Err(Failure::failed(format!("there is no message {id} in `{}`", self.queue)))
            }
            _ => Ok(()),
        }
    }
}
