//! A [`Job`] as a row, and back.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use super::attempts::Attempt;
use super::job::Job;
use super::labels::{LabelKind, Labels};
use super::occurrence::kind_of_error;
use super::state::JobState;

/// The columns that [`Raw::read`] reads and [`insert`] writes, in their order.
macro_rules! columns {
    () => {
        "seq, id, state, state_at, name, queue, worker, root, parent, retries, eta, expires, sent_at, received_at, \
         started_at, finished_at, args, kwargs, result, error, reason, traceback, attempts, reported"
    };
}

const BY_ID: &str = concat!("SELECT ", columns!(), " FROM job WHERE id = ?1");
const BY_SEQ: &str = concat!("SELECT ", columns!(), " FROM job WHERE seq = ?1");
const INSERT: &str = concat!(
    "INSERT INTO job (",
    columns!(),
    ", fault) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, \
     ?23, ?24, ?25) ON CONFLICT (seq) DO NOTHING"
);
/// Updates the columns that most events change. SQLite does not touch an index if none of its columns is named.
const UPDATE: &str = "
    UPDATE job SET state = ?2, state_at = ?3, worker = ?4, retries = ?5, eta = ?6, expires = ?7, sent_at = ?8,
        received_at = ?9, started_at = ?10, finished_at = ?11, args = ?12, kwargs = ?13, result = ?14, error = ?15,
        reason = ?16, traceback = ?17, attempts = ?18, fault = ?19, reported = ?20
    WHERE seq = ?1";
const UPDATE_ORIGIN: &str = "UPDATE job SET name = ?2, queue = ?3, root = ?4, parent = ?5 WHERE seq = ?1";

/// The job with this id, and its place (`seq`).
pub(super) fn by_id(db: &Connection, labels: &mut Labels, id: &str) -> rusqlite::Result<Option<(i64, Job)>> {
    let mut select = db.prepare_cached(BY_ID)?;
    let raw = select.query_row([id], Raw::read).optional()?;
    raw.map(|raw| raw.into_job(db, labels)).transpose()
}

/// The job in this place.
pub(super) fn by_seq(db: &Connection, labels: &mut Labels, seq: i64) -> rusqlite::Result<Option<(i64, Job)>> {
    let mut select = db.prepare_cached(BY_SEQ)?;
    let raw = select.query_row([seq], Raw::read).optional()?;
    raw.map(|raw| raw.into_job(db, labels)).transpose()
}

/// Inserts a row. False if the place is taken.
pub(super) fn insert(db: &Connection, labels: &mut Labels, seq: i64, job: &Job) -> rusqlite::Result<bool> {
    let name = labels.optional(db, LabelKind::Task, job.name.as_deref())?;
    let queue = labels.optional(db, LabelKind::Queue, job.queue.as_deref())?;
    let worker = labels.optional(db, LabelKind::Worker, job.worker.as_deref())?;
    let rows = db.prepare_cached(INSERT)?.execute(rusqlite::params![
        seq,
        job.id,
        job.state.code(),
        micros(job.state_at),
        name,
        queue,
        worker,
        own_root(job),
        job.parent,
        job.retries,
        optional_micros(job.eta),
        optional_micros(job.expires),
        optional_micros(job.sent_at),
        optional_micros(job.received_at),
        optional_micros(job.started_at),
        optional_micros(job.finished_at),
        job.args,
        job.kwargs,
        job.result,
        job.error,
        job.reason,
        job.traceback,
        write_attempts(&job.attempts),
        write_reported(job),
        fault(db, labels, job)?,
    ])?;
    Ok(rows == 1)
}

/// Writes what has changed.
pub(super) fn update(
    db: &Connection,
    labels: &mut Labels,
    seq: i64,
    before: &Job,
    job: &Job,
) -> rusqlite::Result<()> {
    let worker = labels.optional(db, LabelKind::Worker, job.worker.as_deref())?;
    db.prepare_cached(UPDATE)?.execute(rusqlite::params![
        seq,
        job.state.code(),
        micros(job.state_at),
        worker,
        job.retries,
        optional_micros(job.eta),
        optional_micros(job.expires),
        optional_micros(job.sent_at),
        optional_micros(job.received_at),
        optional_micros(job.started_at),
        optional_micros(job.finished_at),
        job.args,
        job.kwargs,
        job.result,
        job.error,
        job.reason,
        job.traceback,
        write_attempts(&job.attempts),
        fault(db, labels, job)?,
        write_reported(job),
    ])?;
    let origin = |job: &Job| (job.name.clone(), job.queue.clone(), job.root.clone(), job.parent.clone());
    if origin(before) != origin(job) {
        let name = labels.optional(db, LabelKind::Task, job.name.as_deref())?;
        let queue = labels.optional(db, LabelKind::Queue, job.queue.as_deref())?;
        db.prepare_cached(UPDATE_ORIGIN)?.execute((seq, name, queue, own_root(job), &job.parent))?;
    }
    Ok(())
}

/// The root, if it is another call: the first call of a workflow needs no entry in the index.
fn own_root(job: &Job) -> Option<&str> {
    job.root.as_deref().filter(|root| *root != job.id)
}

/// The kind of error of a job that has failed permanently.
fn fault(db: &Connection, labels: &mut Labels, job: &Job) -> rusqlite::Result<Option<i64>> {
    let failed = matches!(job.state, JobState::Failure | JobState::DeadLettered);
    let text = job.error.as_deref().or(job.reason.as_deref()).unwrap_or_default();
    labels.optional(db, LabelKind::Fault, failed.then(|| kind_of_error(text)))
}

/// A row before its labels are looked up, while the statement that read it is still in use.
struct Raw {
    seq: i64,
    name: Option<i64>,
    queue: Option<i64>,
    worker: Option<i64>,
    job: Job,
}

impl Raw {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let time = |index| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(index)?.map(from_micros));
        let id: String = row.get(1)?;
        let root: Option<String> = row.get(7)?;
        let job = Job {
            state: JobState::from_code(row.get(2)?),
            state_at: from_micros(row.get(3)?),
            name: None,
            queue: None,
            worker: None,
            root: root.or_else(|| Some(id.clone())),
            id,
            parent: row.get(8)?,
            retries: row.get(9)?,
            eta: time(10)?,
            expires: time(11)?,
            sent_at: time(12)?,
            received_at: time(13)?,
            started_at: time(14)?,
            finished_at: time(15)?,
            args: row.get(16)?,
            kwargs: row.get(17)?,
            result: row.get(18)?,
            error: row.get(19)?,
            reason: row.get(20)?,
            traceback: row.get(21)?,
            attempts: read_attempts(row.get_ref(22)?.as_str()?),
            reported: row.get_ref(23)?.as_str_or_null()?.and_then(|json| serde_json::from_str(json).ok()),
        };
        Ok(Self { seq: row.get(0)?, name: row.get(4)?, queue: row.get(5)?, worker: row.get(6)?, job })
    }

    fn into_job(self, db: &Connection, labels: &mut Labels) -> rusqlite::Result<(i64, Job)> {
        let mut job = self.job;
        job.name = labels.text(db, self.name)?;
        job.queue = labels.text(db, self.queue)?;
        job.worker = labels.text(db, self.worker)?;
        Ok((self.seq, job))
    }
}

/// An attempt as it is stored: retries, worker, start, end, outcome, error.
#[derive(Serialize, Deserialize)]
struct Kept(Option<u32>, Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<String>);

fn write_attempts(attempts: &[Attempt]) -> String {
    let kept: Vec<Kept> = attempts
        .iter()
        .map(|one| {
            Kept(
                one.retries,
                one.worker.clone(),
                optional_micros(one.started_at),
                optional_micros(one.ended_at),
                one.outcome.map(JobState::code),
                one.error.clone(),
            )
        })
        .collect();
    serde_json::to_string(&kept).unwrap_or_default()
}

fn write_reported(job: &Job) -> Option<String> {
    job.reported.as_ref().and_then(|reported| serde_json::to_string(reported).ok())
}

fn read_attempts(text: &str) -> Vec<Attempt> {
    let kept: Vec<Kept> = serde_json::from_str(text).unwrap_or_default();
    kept.into_iter()
        .map(|Kept(retries, worker, started, ended, outcome, error)| Attempt {
            retries,
            worker,
            started_at: started.map(from_micros),
            ended_at: ended.map(from_micros),
            outcome: outcome.map(JobState::from_code),
            error,
        })
        .collect()
}

/// Microseconds since 1970.
pub(super) fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

fn optional_micros(time: Option<DateTime<Utc>>) -> Option<i64> {
    time.map(micros)
}

pub(super) fn from_micros(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::UNIX_EPOCH)
}
