//! The registers and locks of a file.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::SqliteBroker;
use crate::broker::{Lock, Locked, Note, Notes, Register, Registers};
use crate::connection::sqlite::NoteRow;
use crate::connection::sqlite::job;
use crate::error::Result;

impl Registers for SqliteBroker {
    fn note<'a>(&'a self, register: Register, note: &'a Note) -> BoxFuture<'a, Result<()>> {
        let Note { id, until, terminate } = note.clone();
        let noted = NoteRow { id, until: until.timestamp_millis(), terminate };
        let job = job::write("note a task", move |engine, now, _| {
            engine.note(register.name(), &noted, now).map(Ok)
        });
        self.call(job).boxed()
    }

    fn notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        let read =
            job::read("read notes on tasks", move |engine, now| engine.notes(register.name(), from, now));
        async move {
            let (notes, next) = self.call(read).await?;
            Ok(Notes { notes: notes.into_iter().map(note).collect(), next })
        }
        .boxed()
    }

    fn is_noted<'a>(
        &'a self,
        register: Register,
        id: &'a str,
        _lifetime: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        let id = id.to_owned();
        let job =
            job::read("read notes on tasks", move |engine, now| engine.is_noted(register.name(), &id, now));
        self.call(job).boxed()
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<Locked>> {
        let Lock { key, holder, lifetime } = lock.clone();
        let job = job::write("take a lock", move |engine, now, _| {
            engine.lock(&key, &holder, lifetime, now).map(Ok)
        });
        async move { Ok(self.call(job).await?.map_or(Locked::Taken, |holder| Locked::Held(Some(holder)))) }
            .boxed()
    }

    fn unlock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<()>> {
        let Lock { key, holder, .. } = lock.clone();
        self.call(job::write("release a lock", move |engine, _, _| engine.unlock(&key, &holder).map(Ok)))
            .boxed()
    }
}

fn note(noted: NoteRow) -> Note {
    let NoteRow { id, until, terminate } = noted;
    let until = DateTime::from_timestamp_millis(until).unwrap_or(DateTime::<Utc>::MAX_UTC);
    Note { id, until, terminate }
}
