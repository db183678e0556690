//! Reports calls that the broker dead-lettered by itself: they expired while they waited, their queue was full, or they were
//! delivered too often.
//!
//! No worker is involved when that happens, so a worker searches the dead-letter queues of its queues whenever they have
//! grown. Callers that wait for the result of such a call are notified that it is revoked, and the letter is marked as
//! reported. Expired calls would pile up forever, so only the latest [`KEPT`] stay.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::copy::copy_of;
use super::effect::Effect;
use super::persist::Unsettled;
use super::settler::Settler;
use super::trimmed_copy::TrimmedCopy;
use crate::app::unique;
use crate::broker::walk::{Taken, Walk};
use crate::broker::{DeadLetterLock, Delivery, Publication, Settlement, Verdict};
use crate::error::Result;
use crate::message::headers::names;
use crate::routing::Queue;
use crate::runtime::admission::gate::Gate;
use crate::tracing;

/// How often the dead-letter queues are checked.
const PERIOD: Duration = Duration::from_secs(5);
/// A queue whose length has not changed is searched anyway after this time.
const LONGEST: Duration = Duration::from_secs(300);
/// The pause after a search is this many times as long as the search took.
const REST: u32 = 20;
/// The most letters that are examined in one search.
const MOST: u64 = 20_000;
/// How many expired calls of a queue are kept.
const KEPT: usize = 1000;

/// A dead-letter queue, and what is known about it.
struct Watched {
    queue: String,
    /// How many letters it had at the last search, not counting those that this worker has written. `None`: it must be
    /// searched.
    known: Option<i128>,
    next: Instant,
    latest: Instant,
}

/// Watches the dead-letter queues of a worker's queues until `over`.
pub(crate) async fn watch(gate: &Gate, settler: &Settler, queues: Vec<String>, over: CancellationToken) {
    let now = Instant::now();
    let names = queues.iter().filter(|queue| !queue.ends_with(".dead"));
    let names: BTreeSet<String> = names.map(|queue| Queue::dead_letter_name(queue)).collect();
    let watched = |queue: &String| Watched { queue: queue.clone(), known: None, next: now, latest: now };
    let mut all: Vec<Watched> = names.iter().map(watched).collect();
    let names: Vec<String> = names.into_iter().collect();
    while !names.is_empty() {
        match settler.broker.queues(&names).await {
            Ok(found) => {
                for watched in &mut all {
                    let ready =
                        found.iter().find(|info| info.name == watched.queue).map_or(0, |info| info.ready);
                    watched.look(gate, settler, ready, &over).await;
                }
            }
            Err(error) => tracing::debug!(error = format!("{error:#}"), "cannot check the dead letters"),
        }
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

impl Watched {
    async fn look(&mut self, gate: &Gate, settler: &Settler, ready: u64, over: &CancellationToken) {
        let begun = Instant::now();
        let foreign = i128::from(ready) - i128::from(settler.letters.of(&self.queue));
        let has_grown = self.known.is_none_or(|known| foreign > known) || self.latest + LONGEST <= begun;
        if ready == 0 || !has_grown {
            self.known = self.known.map(|known| known.min(foreign)).or((ready == 0).then_some(foreign));
            return;
        }
        if begun < self.next || over.is_cancelled() {
            return;
        }
        let broker = &settler.broker;
        // Letters that are held here are hidden from other readers, so the `dead` commands and the workers take turns.
        let mut lock = DeadLetterLock::new(&self.queue);
        if !lock.take(broker).await {
            return;
        }
        let walked = walk(gate, settler, &self.queue, ready.min(MOST), over).await;
        lock.release(&**broker).await;
        match walked {
            Ok(Walked { gone, is_done: true }) => self.known = Some(foreign - i128::from(gone)),
            // The next search continues.
            Ok(Walked { is_done: false, .. }) => {
                self.known = None;
                return;
            }
            Err(error) => {
                let queue = &self.queue;
                tracing::debug!(queue, error = format!("{error:#}"), "cannot read the dead letters");
            }
        }
        self.latest = Instant::now();
        self.next = self.latest + begun.elapsed() * REST;
    }
}

/// The result of searching a queue.
struct Walked {
    gone: u64,
    /// False when more expired calls are left than are kept.
    is_done: bool,
}

/// Searches at most `most` letters of a queue.
async fn walk(
    gate: &Gate,
    settler: &Settler,
    queue: &str,
    most: u64,
    over: &CancellationToken,
) -> Result<Walked> {
    let mut walk = Walk::new(Arc::clone(&settler.broker), queue, most);
    let mut expired: VecDeque<(u64, Settlement)> = VecDeque::new();
    let (mut gone, mut reported) = (0, 0);
    let walked = async {
        while !over.is_cancelled()
            && let Some(Taken { delivery, place }) = walk.next().await?
        {
            let headers = &delivery.message.headers;
            let has_expired = headers.get_str(names::DEAD_REASON) == Some("expired");
            let kept = match headers.unreported_drop() {
                Some(_) => report(gate, settler, queue, delivery).await.err(),
                None => Some(delivery.settlement),
            };
            match (kept, has_expired) {
                (Some(settlement), true) => expired.push_back((place, settlement)),
                (Some(settlement), false) => walk.hold(place, settlement),
                (None, true) => reported += 1,
                (None, false) => {}
            }
        }
        Ok(())
    }
    .await;
    let is_done = reported == 0 || reported + expired.len() <= KEPT;
    while expired.len() > KEPT
        && let Some((_, oldest)) = expired.pop_front()
    {
        gone += 1;
        oldest.settle(Verdict::Ack);
    }
    expired.into_iter().for_each(|(place, settlement)| walk.hold(place, settlement));
    walk.end().await;
    walked.map(|()| Walked { gone, is_done })
}

/// Reports one call, and replaces its letter with a marked one. `Err`: the letter stays as it is.
async fn report(gate: &Gate, settler: &Settler, letters: &str, delivery: Delivery) -> Result<(), Settlement> {
    let reason = delivery.message.headers.unreported_drop().unwrap_or_default().to_owned();
    let request = gate.dropped(delivery)?;
    let why = match reason.as_str() {
        "expired" => "expired",
        "maxlen" => "its queue was full",
        "delivery_limit" => "it was delivered too often",
        _ => "its queue dropped it",
    };
    let (id, queue) = (request.context.id().to_owned(), request.context.queue().to_owned());
    let reported = async {
        settler.revoked(&request, why).await?;
        let mut message = copy_of(&request);
        let error = format!("no worker has run it: {why}; its caller was notified that it is revoked");
        message.headers.set(names::DEAD_ERROR, error);
        let letter = |message| Effect::Publish(Publication::to_queue(letters, message));
        settler.publish_copy(&request, "keep a dead letter", TrimmedCopy::letter(message), letter).await
    };
    match reported.await {
        Ok(()) => {
            tracing::warn!(
                task = request.context.task(),
                id,
                queue,
                reason,
                "dropped by the broker before it was run"
            );
            request.settlement.settle(Verdict::Replaced);
            if let Some(lock) = unique::read(request.context.headers(), request.context.id()) {
                let _ = settler
                    .retry_until_durable("release the lock of a unique task", Effect::Unlock(&lock))
                    .await;
            }
            Ok(())
        }
        Err(Unsettled::Abandoned) => Err(request.settlement),
        Err(Unsettled::Impossible(error)) => {
            let error = format!("{error:#}");
            tracing::error!(id, queue, error, "cannot mark a dead letter as reported");
            Err(request.settlement)
        }
    }
}
