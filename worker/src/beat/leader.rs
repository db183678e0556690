//! Leads the schedulers of a broker: sends what is due until another scheduler leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::clock::{Clock, Watch, was_wrong};
use super::plan::{DueCall, Plan};
use super::sender::{Sender, Step};
use crate::app::App;
use crate::app::schedules::{DueOutcome, Entry, Reader, log_of};
use crate::broker::{Broker, LogEntry};
use crate::error::Result;
use crate::schedule::{Overlap, run_at};
use crate::tracing;

/// How often the leader writes a mark, which shows that it is alive and up to which time it has sent everything.
const MARK: Duration = Duration::from_secs(1);
/// How often the log is polled.
pub(super) const POLL: Duration = Duration::from_millis(250);
/// How many schedules' calls are sent concurrently.
const AT_ONCE: usize = 128;
/// The log is compacted after this many entries, and four more for each schedule.
const COMPACT: usize = 10_000;

/// Why a leader has stopped leading.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Stopped,
    Deposed,
}

/// A scheduler that leads.
pub(super) struct Leader<'a> {
    sender: Sender,
    reader: &'a mut Reader,
    clock: Clock,
    watch: Watch,
    plan: Plan,
    /// New entries of the log, our own included.
    news: mpsc::Receiver<Result<Vec<LogEntry>>>,
    base: u64,
    /// When the last mark was written, and up to which time everything was sent then.
    marked: (Instant, DateTime<Utc>),
    _follower: AbortOnDropHandle<()>,
}

impl<'a> Leader<'a> {
    /// A new leader. The reader must have read everything that the previous leader has sent.
    pub(super) fn new(sender: Sender, reader: &'a mut Reader, clock: Clock) -> Self {
        let (to_leader, news) = mpsc::channel(4);
        let follower = tokio::spawn(follow(Arc::clone(&sender.broker), reader.place, to_leader));
        let watch = Watch::new(clock.now());
        let base = reader.state.base;
        let plan = Plan::default();
        let marked = (Instant::now(), DateTime::UNIX_EPOCH);
        let follower = AbortOnDropHandle::new(follower);
        Self { sender, reader, clock, watch, plan, news, base, marked, _follower: follower }
    }

    /// Leads until it is stopped or another scheduler leads.
    ///
    /// # Errors
    /// Fails on an error of the broker. Calls in progress may or may not have been sent.
    pub(super) async fn lead(mut self, stop: &CancellationToken) -> Result<Ended> {
        let now = self.clock.now();
        if was_wrong(self.reader.state.mark, now) {
            self.reset(now).await?;
        }
        // Nothing that is due has been sent yet: this only announces that a scheduler leads.
        let before = self.reader.state.mark.unwrap_or(DateTime::UNIX_EPOCH);
        self.mark(before).await?;
        let _leads = LeadingGuard::new(&self.sender.app);
        self.plan = Plan::of(&self.reader.state, now);
        loop {
            let now = self.clock.now();
            if self.watch.is_set_back(now) {
                self.reset(now).await?;
                self.plan = Plan::of(&self.reader.state, now);
            }
            let mut calls = self.plan.take_due(now);
            let is_time = self.marked.0.elapsed() >= MARK;
            if is_time {
                calls.extend(self.waiting());
            }
            if !calls.is_empty() && self.send(calls).await? == Ended::Deposed {
                return Ok(Ended::Deposed);
            }
            if is_time {
                self.mark(now).await?;
                self.compact(now).await?;
            }
            let until_next = self.plan.next().and_then(|next| (next - self.clock.now()).to_std().ok());
            let pause = match self.plan.next() {
                Some(_) => until_next.unwrap_or_default(),
                None => MARK,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.mark(now).await?;
                    self.reader.append(&[Entry::Leave { leader: self.sender.fence.clone() }]).await?;
                    return Ok(Ended::Stopped);
                }
                news = self.news.recv() => {
                    let Some(news) = news else { continue };
                    self.apply(news?).await?;
                    if self.reader.state.leader.as_ref() != Some(&self.sender.fence) {
                        return Ok(Ended::Deposed);
                    }
                }
                () = sleep(pause.min(MARK.saturating_sub(self.marked.0.elapsed()))) => {}
            }
        }
    }

    async fn apply(&mut self, entries: Vec<LogEntry>) -> Result<()> {
        let changed = self.reader.apply(entries);
        if changed.is_empty() { Ok(()) } else { self.replan(changed).await }
    }

    /// Plans schedules anew after the log was read to its end: what was sent must not be planned again.
    async fn replan(&mut self, mut changed: Vec<String>) -> Result<()> {
        changed.extend(self.reader.catch_up().await?);
        let now = self.clock.now();
        for name in changed {
            self.plan.update(&name, &self.reader.state, None, now);
        }
        Ok(())
    }

    /// The due times that wait for the previous call to end.
    fn waiting(&self) -> Vec<DueCall> {
        let now = self.clock.now();
        let state = &self.reader.state;
        let waiting = state.kept().filter_map(|(_, record)| {
            let due = record.waiting().filter(|_| record.paused_until(now).is_none())?;
            let (_, definition) = record.in_force()?;
            Some(DueCall { schedule: Arc::new(definition.schedule.clone()), due })
        });
        waiting.collect()
    }

    /// Sends calls: those of one schedule in order, those of different ones concurrently.
    async fn send(&mut self, calls: Vec<DueCall>) -> Result<Ended> {
        let era = self.reader.state.era;
        let (now_waiting, calls): (Vec<_>, Vec<_>) = calls.into_iter().partition(|call| {
            let record = self.reader.state.records.get(&call.schedule.name);
            let waiting = record.and_then(|record| record.waiting());
            call.schedule.overlap == Overlap::Queue && waiting.is_some_and(|waiting| waiting != call.due)
        });
        let mut entries: Vec<Entry> =
            now_waiting.iter().map(|call| skipped(call, "another due time is already waiting")).collect();
        let sent = self.send_each(calls, era).await?;
        let (mut ended, mut failed) = (Ended::Stopped, None);
        let (mut waits, mut refused): (Vec<DueCall>, Vec<DueCall>) = Default::default();
        for (call, step) in sent {
            self.count(&call, &step);
            match step {
                Ok(Step::Sent) => {}
                Ok(Step::Waits) if waits.iter().any(|other| other.schedule.name == call.schedule.name) => {
                    entries.push(skipped(&call, "another due time is already waiting"));
                }
                Ok(Step::Waits) => waits.push(call),
                Ok(Step::Skipped) => entries.push(skipped(&call, "skipped")),
                Ok(Step::Refused) => refused.push(call),
                Ok(Step::Deposed) => ended = Ended::Deposed,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let known = &self.reader.state.records;
        let is_new = |call: &DueCall| {
            known.get(&call.schedule.name).and_then(|record| record.waiting()) != Some(call.due)
        };
        waits.retain(is_new);
        entries.extend(waits.iter().map(|call| {
            tracing::info!(schedule = call.schedule.name, due = %call.due, "waits for the previous call to end");
            Entry::Waits { name: call.schedule.name.clone(), due: call.due }
        }));
        entries.extend(refused.iter().map(|call| {
            tracing::warn!(schedule = call.schedule.name, due = %call.due, "the queue accepts no messages; will try again");
            Entry::Refused { name: call.schedule.name.clone(), due: call.due }
        }));
        if !entries.is_empty() {
            self.reader.append(&entries).await?;
        }
        if !refused.is_empty() {
            self.replan(Vec::new()).await?;
        }
        Ok(ended)
    }

    /// Sends calls, and goes on to show that this leader is alive. After an error the calls of other schedules finish: the
    /// log records which were sent.
    async fn send_each(&mut self, calls: Vec<DueCall>, era: u32) -> Result<Vec<(DueCall, Result<Step>)>> {
        let mut by_schedule: BTreeMap<String, Vec<DueCall>> = BTreeMap::new();
        for call in calls {
            by_schedule.entry(call.schedule.name.clone()).or_default().push(call);
        }
        let sender = self.sender.clone();
        let mut steps = stream::iter(by_schedule.into_values())
            .map(|calls| sender.send_in_order(calls, era))
            .buffer_unordered(AT_ONCE);
        let mut sent = Vec::new();
        loop {
            let (marked, until) = self.marked;
            tokio::select! {
                biased;
                next = steps.next() => match next {
                    Some(steps) => sent.extend(steps),
                    None => return Ok(sent),
                },
                () = sleep(MARK.saturating_sub(marked.elapsed())) => self.mark(until).await?,
            }
        }
    }

    /// Counts the outcome of a due time, for the metrics.
    fn count(&self, call: &DueCall, step: &Result<Step>) {
        let late = (self.clock.now() - run_at(&call.schedule, call.due)).to_std().unwrap_or_default();
        let dealt = match step {
            Ok(Step::Sent) => DueOutcome::Sent(late),
            Ok(Step::Waits)
                if self
                    .reader
                    .state
                    .records
                    .get(&call.schedule.name)
                    .and_then(|record| record.waiting())
                    .is_none() =>
            {
                DueOutcome::Waits
            }
            Ok(Step::Skipped) => DueOutcome::Skipped,
            _ => return,
        };
        self.sender.app.schedule_figures().count(&call.schedule.name, dealt);
    }

    async fn mark(&mut self, at: DateTime<Utc>) -> Result<()> {
        let (leader, term, era) = (self.sender.fence.clone(), self.reader.state.term, self.reader.state.era);
        self.reader.append(&[Entry::Mark { leader, term, at, base: self.base, era }]).await?;
        self.marked = (Instant::now(), at);
        Ok(())
    }

    /// Records that the clock was set back to `at`.
    async fn reset(&mut self, at: DateTime<Utc>) -> Result<()> {
        tracing::warn!(now = %at, "the clock was set back: intervals continue from now, times of day are not repeated");
        let entry = Entry::Reset { at, era: self.reader.state.era + 1 };
        self.reader.append(&[entry]).await?;
        self.reader.catch_up().await.map(drop)
    }

    /// Writes a snapshot of the state, so that older entries can be deleted.
    async fn compact(&mut self, now: DateTime<Utc>) -> Result<()> {
        let state = &self.reader.state;
        if state.length < COMPACT + 4 * state.records.len() {
            return Ok(());
        }
        let base = self.reader.place;
        let kept = state
            .kept()
            .map(|(name, record)| Entry::Keep { name: name.clone(), record: Box::new(record.clone()) });
        let kept: Vec<Entry> = kept.collect();
        self.reader.append(&kept).await?;
        self.base = base;
        self.mark(now).await?;
        for name in self.reader.catch_up().await? {
            self.plan.update(&name, &self.reader.state, None, now);
        }
        self.reader.log()?.trim(base).await
    }
}

/// Shows in the metrics that this process leads, until it is dropped.
struct LeadingGuard(App);

impl LeadingGuard {
    fn new(app: &App) -> Self {
        app.schedule_figures().lead(true);
        Self(app.clone())
    }
}

impl Drop for LeadingGuard {
    fn drop(&mut self) {
        self.0.schedule_figures().lead(false);
    }
}

fn skipped(call: &DueCall, why: &str) -> Entry {
    tracing::info!(schedule = call.schedule.name, due = %call.due, why, "due time skipped");
    Entry::Skipped { name: call.schedule.name.clone(), due: call.due }
}

/// Sends new entries of the log to the leader. Ends with the leader, or after an error.
async fn follow(broker: Arc<dyn Broker>, mut place: u64, to_leader: mpsc::Sender<Result<Vec<LogEntry>>>) {
    loop {
        let newer = match log_of(&*broker) {
            Ok(log) => log.newer(place).await,
            Err(error) => Err(error),
        };
        let is_error = newer.is_err();
        if let Ok(entries) = &newer {
            place = entries.last().map_or(place, |entry| entry.at);
        }
        let is_news = newer.as_ref().map_or(true, |entries| !entries.is_empty());
        if (is_news && to_leader.send(newer).await.is_err()) || is_error {
            return;
        }
        sleep(POLL).await;
    }
}
