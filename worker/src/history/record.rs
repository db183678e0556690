//! Writing a batch of events: each call is read, changed by all of its events and written once.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use super::job::Job;
use super::labels::Labels;
use super::occurrence::Occurrence;
use super::rows;
use super::tallies::Tallies;
use super::workers::{self, WorkerReport};

/// Something to record.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// What happened to a call.
    Call(Box<Occurrence>),
    /// What a worker reported about itself.
    Worker(Box<WorkerReport>),
}

/// Records a batch. No time is later than `now`: clocks of other machines may be wrong.
pub(super) fn record(
    db: &Connection,
    labels: &mut Labels,
    entries: &[Entry],
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    let mut tallies = Tallies::default();
    let mut places = Places::default();
    for (id, events) in by_call(entries, now) {
        let found = rows::by_id(db, labels, &id)?;
        let mut job = match &found {
            Some((_, job)) => job.clone(),
            None => Job::new(id, events[0].at),
        };
        for event in &events {
            if let Some(tally) = job.apply(event) {
                tallies.add(&job, &tally);
            }
        }
        let before = found.as_ref().map(|(_, before)| before);
        let seq = match &found {
            Some((_, before)) if *before == job => continue,
            Some((seq, before)) => {
                rows::update(db, labels, *seq, before, &job)?;
                *seq
            }
            None => {
                let first = events.iter().map(|event| event.at).min().unwrap_or(now);
                places.insert(db, labels, rows::micros(first), &job)?
            }
        };
        write_words(db, seq, before, &job)?;
    }
    tallies.write(db, labels)?;
    for entry in entries {
        if let Entry::Worker(report) = entry {
            workers::record(db, report, now)?;
        }
    }
    Ok(())
}

/// Groups events by call, in the order in which they came.
fn by_call(entries: &[Entry], now: DateTime<Utc>) -> Vec<(String, Vec<Occurrence>)> {
    let mut calls: Vec<(String, Vec<Occurrence>)> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for entry in entries {
        let Entry::Call(event) = entry else { continue };
        let event = event.bounded(now);
        // Without an id it belongs to no call.
        if event.id.is_empty() {
            continue;
        }
        let at = *index.entry(event.id.clone()).or_insert_with(|| {
            calls.push((event.id.clone(), Vec::new()));
            calls.len() - 1
        });
        calls[at].1.push(event);
    }
    calls
}

/// Finds a free place for each new row: the time of its first event, or soon after it.
#[derive(Default)]
struct Places {
    last: i64,
}

impl Places {
    fn insert(
        &mut self,
        db: &Connection,
        labels: &mut Labels,
        wanted: i64,
        job: &Job,
    ) -> rusqlite::Result<i64> {
        let mut place = wanted;
        let mut step = 1;
        while !rows::insert(db, labels, place, job)? {
            // Many calls may share a microsecond: do not try every place one by one.
            place = if self.last >= place { self.last + 1 } else { place + step };
            step = (step * 2).min(1 << 20);
        }
        self.last = place;
        Ok(place)
    }
}

/// Indexes the text of a call for the search.
fn write_words(db: &Connection, seq: i64, before: Option<&Job>, job: &Job) -> rusqlite::Result<()> {
    let text = |job: &Job| {
        let parts = [&job.args, &job.kwargs, &job.error].map(|part| part.as_deref().unwrap_or_default());
        parts.join(" ")
    };
    let new = text(job);
    let old = before.map(text).unwrap_or_default();
    if new == old || new.trim().is_empty() {
        return Ok(());
    }
    db.prepare_cached("INSERT OR REPLACE INTO words (rowid, text) VALUES (?1, ?2)")?.execute((seq, new))?;
    Ok(())
}
