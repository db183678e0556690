//! Counters by minute and by hour, for charts; they outlive the calls that they count.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use super::histogram::Histogram;
use super::job::{Counter, Job, Tally};
use super::labels::{LabelKind, Labels};

/// A minute and an hour, in seconds; charts of more than a day read the counters of hours.
pub(super) const SPANS: [i64; 2] = [60, 3600];

/// The counters of one batch.
#[derive(Default)]
pub(super) struct Tallies(HashMap<Key, Cell>);

#[derive(PartialEq, Eq, Hash)]
struct Key {
    span: i64,
    at: i64,
    queue: Option<String>,
    name: Option<String>,
    what: Counter,
}

#[derive(Default)]
struct Cell {
    count: i64,
    run: Histogram,
    wait: Histogram,
}

impl Tallies {
    pub(super) fn add(&mut self, job: &Job, tally: &Tally) {
        for span in SPANS {
            let key = Key {
                span,
                at: tally.at.timestamp().div_euclid(span) * span,
                queue: job.queue.clone(),
                name: job.name.clone(),
                what: tally.what,
            };
            let cell = self.0.entry(key).or_default();
            cell.count += 1;
            tally.run.into_iter().for_each(|seconds| cell.run.add(seconds));
            tally.wait.into_iter().for_each(|seconds| cell.wait.add(seconds));
        }
    }

    pub(super) fn write(self, db: &Connection, labels: &mut Labels) -> rusqlite::Result<()> {
        for (key, mut cell) in self.0 {
            // Until an event names the task or queue, the call is counted under an empty name.
            let queue = labels.number(db, LabelKind::Queue, key.queue.as_deref().unwrap_or_default())?;
            let name = labels.number(db, LabelKind::Task, key.name.as_deref().unwrap_or_default())?;
            let place = (key.span, key.at, queue, name, key.what as i64);
            let mut select = db.prepare_cached(
                "SELECT count, run, wait FROM tally
                 WHERE span = ?1 AND at = ?2 AND queue = ?3 AND name = ?4 AND what = ?5",
            )?;
            let known = select
                .query_row(place, |row| {
                    let histogram = |index| {
                        Ok::<_, rusqlite::Error>(Histogram::from_bytes(row.get_ref(index)?.as_blob()?))
                    };
                    Ok((row.get::<_, i64>(0)?, histogram(1)?, histogram(2)?))
                })
                .optional()?;
            if let Some((count, run, wait)) = known {
                cell.count += count;
                cell.run.merge(&run);
                cell.wait.merge(&wait);
            }
            let mut replace = db.prepare_cached(
                "INSERT OR REPLACE INTO tally (span, at, queue, name, what, count, run, wait)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?;
            let (span, at, queue, name, what) = place;
            replace.execute((
                span,
                at,
                queue,
                name,
                what,
                cell.count,
                cell.run.to_bytes(),
                cell.wait.to_bytes(),
            ))?;
        }
        Ok(())
    }
}
