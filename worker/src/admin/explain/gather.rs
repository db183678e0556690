//! Gathers the facts about one call: from the history, the broker, the workers and the result backend, at the same time.

use chrono::{DateTime, Utc};
use serde_json::Map;

use super::facts::{
    DeadFacts, Facts, QueueFacts, ResultFacts, RunningFacts, ScheduleFacts, WaitingFacts, WorkerFacts,
};
use crate::app::{App, Pausable, unique};
use crate::broker::{Broker, FoundMessage, Locked, Position, Register};
use crate::control::registered::names as names_of;
use crate::control::{Control, Reply, WorkerInfo};
use crate::error::{Error, Result};
use crate::history::{History, Job};
use crate::message::headers::{names, parse_time};

/// Gathers all available facts about a call. Missing facts are listed in [`Facts::gaps`]; only an unreachable broker is an
/// error.
pub(crate) async fn gather(
    app: &App,
    history: Option<&History>,
    control: &Control,
    id: &str,
) -> Result<Facts> {
    let broker = app.broker().await?;
    let mut facts = Facts { id: id.to_owned(), ..Facts::default() };
    if let Some(history) = history {
        match history.job(id).await {
            Ok(job) => facts.job = job,
            Err(error) => facts.gaps.push(format!("{error:#}")),
        }
    }
    let (seen, workers, registered, messages, marks, result, paused) = tokio::join!(
        control.find(std::slice::from_ref(&facts.id)),
        control.workers(),
        control.ask("registered", Map::new()),
        broker.find(id),
        marks(&*broker, id),
        result(app, id),
        app.paused(),
    );
    match seen {
        Ok(seen) => {
            facts.running = seen.running.get(id).map(|running| {
                facts.task = Some(running.task.clone()).filter(|task| !task.is_empty());
                RunningFacts { worker: running.worker.clone(), since: running.since.and_then(moment) }
            });
        }
        Err(error) => facts.gaps.push(no_answer(error)?),
    }
    if let (Ok(workers), Ok(registered)) = (workers, registered) {
        facts.workers = Some(workers.into_iter().map(|worker| described(worker, &registered)).collect());
    }
    match messages {
        Ok(messages) => of_messages(&mut facts, messages, &*broker).await,
        Err(error) if error.is_unsupported() => facts.gaps.push(format!(
            "{} does not show what waits in a queue without delivering it",
            broker.capabilities().name
        )),
        Err(error) => return Err(error),
    }
    (facts.is_revoked, facts.is_done, facts.is_quarantined) = marks;
    if facts.schedule.is_none() {
        match app.schedules().of_call(id).await {
            Ok(found) => facts.schedule = found.map(|(name, due)| ScheduleFacts { name, due: Some(due) }),
            Err(error) => facts.gaps.push(format!("whether a schedule sent it is not known: {error:#}")),
        }
    }
    match result {
        Ok(result) => facts.result = result,
        Err(error) => facts.gaps.push(format!("the result is not known: {error:#}")),
    }
    let of_job = |field: fn(&Job) -> &Option<String>| facts.job.as_ref().and_then(|job| field(job).clone());
    facts.task = facts.task.take().or_else(|| of_job(|job| &job.name));
    let queue =
        facts.waiting.as_ref().map(|waiting| waiting.queue.clone()).or_else(|| of_job(|job| &job.queue));
    if let Some(name) = queue {
        let found = broker.queues(std::slice::from_ref(&name)).await?;
        let ready = found.into_iter().find(|queue| queue.name == name).map(|queue| queue.ready);
        facts.queue = Some(QueueFacts { name, ready });
    }
    dead_by_history(&mut facts);
    match paused {
        Ok(paused) => {
            let queue = facts.queue.as_ref().map(|queue| Pausable::Queue(queue.name.clone()));
            let task = facts.task.clone().map(Pausable::Task);
            let of = |what: Option<&Pausable>| paused.iter().find(|pause| Some(&pause.what) == what).cloned();
            (facts.queue_pause, facts.task_pause) = (of(queue.as_ref()), of(task.as_ref()));
        }
        Err(error) => facts.gaps.push(format!("what is paused is not known: {error:#}")),
    }
    Ok(facts)
}

/// Adds the facts from its message or dead letter, and the holder of its lock.
async fn of_messages(facts: &mut Facts, messages: Vec<FoundMessage>, broker: &dyn Broker) {
    for FoundMessage { queue, position, message } in messages {
        let headers = &message.headers;
        facts.task = facts.task.take().or_else(|| headers.task().map(ToOwned::to_owned));
        facts.schedule = facts.schedule.take().or_else(|| {
            let due = headers.get_str(names::SCHEDULED_AT).and_then(parse_time);
            Some(ScheduleFacts { name: headers.get_str(names::SCHEDULE)?.to_owned(), due })
        });
        // A replayed message keeps the headers of its dead letter; only the queue shows whether it is one.
        if queue.ends_with(".dead") {
            let text = |name| headers.get_str(name).map(ToOwned::to_owned);
            facts.dead = Some(DeadFacts {
                queue,
                reason: text(names::DEAD_REASON),
                error: text(names::DEAD_ERROR),
                died_at: text(names::DEAD_AT),
            });
            continue;
        }
        let (ahead, until) = match position {
            Position::Ready { ahead } => (ahead, None),
            Position::Delayed { until } => (0, Some(until)),
            Position::Delivered => continue,
        };
        facts.waiting = Some(WaitingFacts { queue, ahead, until });
        // It is this call's own lock: taking it again changes nothing, and fails only if another call holds it.
        if let Some(lock) = unique::read(headers, &facts.id)
            && let Ok(Locked::Held(holder)) = broker.lock(&lock).await
        {
            facts.lock_holder = Some(holder.unwrap_or_else(|| "(unknown)".into()));
        }
    }
    if facts.waiting.is_some() {
        facts.dead = None;
    }
}

/// Takes a dead letter from the history if the broker cannot show its messages.
fn dead_by_history(facts: &mut Facts) {
    let Some(job) = facts.job.as_ref().filter(|_| facts.dead.is_none() && facts.waiting.is_none()) else {
        return;
    };
    let can_look = !facts.gaps.iter().any(|gap| gap.contains("without delivering it"));
    if job.state == crate::history::JobState::DeadLettered && !can_look {
        let queue = job.queue.as_deref().map(crate::routing::Queue::dead_letter_name).unwrap_or_default();
        facts.dead = Some(DeadFacts { queue, ..DeadFacts::default() });
    }
}

/// Whether the call was revoked, has succeeded, and was run in quarantine.
async fn marks(broker: &dyn Broker, id: &str) -> (bool, bool, bool) {
    let is_in = async |register: Register| {
        broker.is_noted(register, id, register.max_lifetime()).await.unwrap_or(false)
    };
    tokio::join!(is_in(Register::Revoked), is_in(Register::Done), is_in(Register::Quarantined))
}

/// Returns its result, if the backend stores results rather than sending them to the caller only.
async fn result(app: &App, id: &str) -> Result<Option<ResultFacts>> {
    Ok(app.stored(id).await?.map(|record| ResultFacts {
        state: record.state,
        error: record.failure.map(|failure| failure.to_string()),
        done_at: record.done_at,
    }))
}

fn described(worker: WorkerInfo, registered: &[Reply]) -> WorkerFacts {
    let reply = registered.iter().find(|reply| reply.node == worker.name);
    WorkerFacts {
        tasks: reply.into_iter().flat_map(names_of).map(str::to_owned).collect(),
        name: worker.name,
        queues: worker.queues,
        running: worker.running,
        slots: worker.concurrency,
        is_stopping: worker.stopping,
    }
}

/// Turns a failure to ask the workers into a gap: the broker may still answer everything else.
fn no_answer(error: Error) -> Result<String> {
    if error.is_unknown() || error.is_timeout() {
        return Ok(format!("the workers could not be asked: {error:#}"));
    }
    Err(error)
}

fn moment(seconds: f64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros((seconds * 1e6) as i64)
}
