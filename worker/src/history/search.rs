//! Finds calls, newest first, a page at a time, fast enough that a user does not notice.
//!
//! Each condition is a sorted stream of places (`seq`) from an index; a call that meets all of them is in all streams. They
//! advance together, each skipping to the position of the one before, so the rarest condition sets the pace and only
//! rows of the page are read. A search that finds nothing for a while stops, and returns how far it came.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rusqlite::{Connection, params_from_iter, types::Value};
use serde::{Serialize, Serializer};

use super::job::Job;
use super::labels::{self, LabelKind, Labels};
use super::rows::{self, from_micros, micros};
use super::state::JobState;
use crate::error::Error;

/// How long one page may take.
const BUDGET: Duration = Duration::from_millis(60);
/// The most names that a pattern may match: each is a stream of its own.
const MOST_NAMES: i64 = 200;
/// The most ids with a common prefix that are sorted; a shorter prefix is compared call by call.
const MOST_IDS: usize = 5_000;
/// How many places are fetched at once: initially, and at most.
const CHUNKS: (usize, usize) = (32, 1024);

/// Selects calls. A call must meet all conditions that are set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// The id begins with this.
    pub id: Option<String>,
    /// The task's name matches this pattern, with `*`, `?` and `[…]`.
    pub name: Option<String>,
    /// The state is one of these; none means any.
    pub states: Vec<JobState>,
    /// The queue has this name.
    pub queue: Option<String>,
    /// The worker that reported the call last has this name.
    pub worker: Option<String>,
    /// The arguments or the error contain all of these words, ignoring case and accents. A word that ends with `*` is a
    /// prefix; a prefix of many different words is slow to find.
    pub text: Option<String>,
    /// It belongs to the workflow that began with this call.
    pub root: Option<String>,
    /// It was sent by this call.
    pub parent: Option<String>,
    /// Its first event came at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Its first event came before this time.
    pub to: Option<DateTime<Utc>>,
}

/// Where a page starts: after the last call of the previous page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(i64);

/// Calls that match a filter, newest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page {
    /// The calls.
    pub jobs: Vec<Job>,
    /// Where the next page starts; `None` if there are no more calls.
    pub next: Option<Cursor>,
    /// If the search took too long: the time back to which it has looked. The rest is on the next pages.
    pub searched_to: Option<DateTime<Utc>>,
}

/// Finds the calls of one page.
pub(super) fn find(
    db: &Connection,
    labels: &mut Labels,
    filter: &Filter,
    limit: usize,
    after: Option<Cursor>,
) -> rusqlite::Result<Page> {
    let begun = Instant::now();
    let limit = limit.clamp(1, 1000);
    let mut page = Page { jobs: Vec::new(), next: None, searched_to: None };
    let bounds = Bounds {
        lowest: filter.from.map_or(i64::MIN, micros),
        highest: after
            .map_or(i64::MAX, |Cursor(seq)| seq - 1)
            .min(filter.to.map_or(i64::MAX, |to| micros(to) - 1)),
    };
    let Some(mut conditions) = conditions(db, filter)? else { return Ok(page) };
    let (mut bound, mut last) = (bounds.highest, None);
    loop {
        match meet(db, &mut conditions, &mut bound, bounds.lowest, begun)? {
            Meeting::At(seq) => {
                bound = seq - 1;
                let Some((seq, job)) = rows::by_seq(db, labels, seq)? else { continue };
                if filter.id.as_ref().is_some_and(|id| !job.id.starts_with(id.as_str())) {
                    continue;
                }
                // One call more than asked for shows that there is a next page.
                if page.jobs.len() == limit {
                    page.next = last.map(Cursor);
                    return Ok(page);
                }
                last = Some(seq);
                page.jobs.push(job);
            }
            Meeting::Nowhere => return Ok(page),
            Meeting::NotYet => {
                page.next = Some(Cursor(bound + 1));
                page.searched_to = Some(from_micros(bound));
                return Ok(page);
            }
        }
    }
}

struct Bounds {
    lowest: i64,
    highest: i64,
}

enum Meeting {
    At(i64),
    Nowhere,
    NotYet,
}

/// Finds the next place not above `bound` that meets all conditions.
fn meet(
    db: &Connection,
    conditions: &mut [Condition],
    bound: &mut i64,
    lowest: i64,
    begun: Instant,
) -> rusqlite::Result<Meeting> {
    loop {
        let target = *bound;
        for condition in conditions.iter_mut() {
            match condition.at_most(db, *bound, lowest)? {
                None => return Ok(Meeting::Nowhere),
                Some(place) => *bound = place,
            }
        }
        if *bound < lowest {
            return Ok(Meeting::Nowhere);
        }
        if conditions.len() == 1 || *bound == target {
            return Ok(Meeting::At(*bound));
        }
        if begun.elapsed() > BUDGET {
            return Ok(Meeting::NotYet);
        }
    }
}

/// The conditions of a filter; `None` if one of them cannot be met.
fn conditions(db: &Connection, filter: &Filter) -> rusqlite::Result<Option<Vec<Condition>>> {
    let mut conditions = Vec::new();
    if let Some(id) = filter.id.as_deref().filter(|id| !id.is_empty()) {
        let places = by_beginning(db, id)?;
        if places.len() <= MOST_IDS {
            conditions.push(Condition(vec![Stream::of(places)]));
        }
    }
    if let Some(words) = &filter.text {
        conditions.push(Condition(vec![Stream::new(BY_WORDS, Value::Text(query(words)))]));
    }
    for (sql, text) in [(BY_ROOT, &filter.root), (BY_PARENT, &filter.parent)] {
        if let Some(text) = text {
            conditions.push(Condition(vec![Stream::new(sql, Value::Text(text.clone()))]));
        }
    }
    for (sql, kind, name) in
        [(BY_QUEUE, LabelKind::Queue, &filter.queue), (BY_WORKER, LabelKind::Worker, &filter.worker)]
    {
        let Some(name) = name else { continue };
        let Some(number) = labels::find(db, kind, name)? else { return Ok(None) };
        conditions.push(Condition(vec![Stream::new(sql, Value::Integer(number))]));
    }
    if let Some(pattern) = filter.name.as_deref().filter(|pattern| *pattern != "*") {
        let names = labels::matching(db, LabelKind::Task, pattern, MOST_NAMES)?;
        conditions.push(Condition(
            names.into_iter().map(|number| Stream::new(BY_NAME, Value::Integer(number))).collect(),
        ));
    }
    if !filter.states.is_empty() {
        let streams = filter.states.iter().map(|state| Stream::new(BY_STATE, Value::Integer(state.code())));
        conditions.push(Condition(streams.collect()));
    }
    if conditions.is_empty() {
        conditions.push(Condition(vec![Stream::new(ALL, Value::Null)]));
    }
    Ok(Some(conditions))
}

/// The places of the ids with this prefix, at most one more than [`MOST_IDS`].
fn by_beginning(db: &Connection, id: &str) -> rusqlite::Result<Vec<i64>> {
    let mut select = db.prepare_cached("SELECT seq FROM job WHERE id >= ?1 AND id < ?2 LIMIT ?3")?;
    let end = format!("{id}{}", char::MAX);
    let places = select.query_map((id, end, MOST_IDS as i64 + 1), |row| row.get(0))?;
    let mut places: Vec<i64> = places.collect::<rusqlite::Result<_>>()?;
    places.sort_unstable_by(|a, b| b.cmp(a));
    Ok(places)
}

/// Quotes words for a query of FTS5: each is taken literally, or as a prefix if it ends with a star.
fn query(words: &str) -> String {
    let quoted = |word: &str| {
        let (word, star) = word.strip_suffix('*').map_or((word, ""), |word| (word, "*"));
        format!("\"{}\"{star}", word.replace(['"', '\0'], " "))
    };
    let quoted: Vec<String> = words.split_whitespace().map(quoted).collect();
    if quoted.is_empty() { "\"\"".into() } else { quoted.join(" ") }
}

macro_rules! by {
    ($condition:literal) => {
        concat!(
            "SELECT seq FROM job WHERE ",
            $condition,
            " AND seq <= ?1 AND seq >= ?2 ORDER BY seq DESC LIMIT ?3"
        )
    };
}
const BY_NAME: &str = by!("name = ?4");
const BY_STATE: &str = by!("state = ?4");
const BY_QUEUE: &str = by!("queue = ?4");
const BY_WORKER: &str = by!("worker = ?4");
const BY_ROOT: &str = by!("root = ?4");
const BY_PARENT: &str = by!("parent = ?4");
const ALL: &str = by!("?4 IS NULL");
const BY_WORDS: &str = "SELECT rowid FROM words WHERE words MATCH ?4 AND rowid <= ?1 AND rowid >= ?2 \
                        ORDER BY rowid DESC LIMIT ?3";

/// One condition, met by the places in any of its streams.
struct Condition(Vec<Stream>);

impl Condition {
    /// The highest place not above the bound.
    fn at_most(&mut self, db: &Connection, bound: i64, lowest: i64) -> rusqlite::Result<Option<i64>> {
        let mut highest = None;
        for stream in &mut self.0 {
            highest = highest.max(stream.at_most(db, bound, lowest)?);
        }
        Ok(highest)
    }
}

/// Places in descending order, fetched in chunks.
struct Stream {
    /// `None` once everything has been fetched.
    sql: Option<&'static str>,
    value: Value,
    /// The last one is the highest.
    places: Vec<i64>,
    chunk: usize,
}

impl Stream {
    fn new(sql: &'static str, value: Value) -> Self {
        Self { sql: Some(sql), value, places: Vec::new(), chunk: CHUNKS.0 }
    }

    /// A stream of known places, in descending order.
    fn of(mut places: Vec<i64>) -> Self {
        places.reverse();
        Self { sql: None, value: Value::Null, places, chunk: 0 }
    }

    fn at_most(&mut self, db: &Connection, bound: i64, lowest: i64) -> rusqlite::Result<Option<i64>> {
        let kept = self.places.partition_point(|place| *place <= bound);
        self.places.truncate(kept);
        if self.places.is_empty()
            && let Some(sql) = self.sql
        {
            let values = [bound, lowest, i64::try_from(self.chunk).unwrap_or(i64::MAX)].map(Value::Integer);
            let mut select = db.prepare_cached(sql)?;
            let places = select
                .query_map(params_from_iter(values.into_iter().chain([self.value.clone()])), |row| {
                    row.get(0)
                })?;
            self.places = places.collect::<rusqlite::Result<_>>()?;
            self.places.reverse();
            if self.places.len() < self.chunk {
                self.sql = None;
            }
            self.chunk = (self.chunk * 2).min(CHUNKS.1);
        }
        Ok(self.places.last().copied())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number = text.parse::<i64>().ok().filter(|number| *number > 0);
        number.map(Self).ok_or_else(|| {
            Error::config(format!("no page `{text}`: expected the number that the page before gave"))
        })
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::query;

    #[test]
    fn words_are_text_whatever_they_look_like() {
        for (words, expected) in [
            ("user 42", "\"user\" \"42\""),
            ("us* 42", "\"us\"* \"42\""),
            ("a\" OR \"b", "\"a \" \"OR\" \" b\""),
            ("ann@example.com", "\"ann@example.com\""),
            ("", "\"\""),
        ] {
            assert_eq!(query(words), expected);
        }
    }
}
