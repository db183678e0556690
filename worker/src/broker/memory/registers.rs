//! Notes and locks of one memory broker: plain data that gets the time as an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::Utc;

use crate::broker::{Lock, Locked, Note, Notes, Register};
use crate::message::Headers;

/// Expired notes are dropped once per this many new ones.
const SWEEP: u64 = 1024;

/// The longest lifetime of a lock. A longer one outlives the process anyway, and might be beyond the range of the clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[derive(Default)]
pub(super) struct RegisterStore {
    noted: HashMap<(Register, String), NoteRow>,
    count: u64,
    locks: HashMap<String, Held>,
}

struct NoteRow {
    number: u64,
    note: Note,
}

struct Held {
    holder: String,
    until: Instant,
}

impl RegisterStore {
    pub(super) fn note(&mut self, register: Register, note: &Note) {
        let now = Utc::now();
        self.count += 1;
        if self.count.is_multiple_of(SWEEP) {
            self.noted.retain(|_, noted| noted.note.until > now);
        }
        let key = (register, note.id.clone());
        let before =
            self.noted.get(&key).is_some_and(|before| before.note.terminate && before.note.until > now);
        let note = Note { terminate: note.terminate || before, ..note.clone() };
        self.noted.insert(key, NoteRow { number: self.count, note });
    }

    pub(super) fn notes(&self, register: Register, from: u64) -> Notes {
        let wanted = self.noted.iter().filter(|((of, _), noted)| *of == register && noted.number > from);
        let mut found: Vec<&NoteRow> = wanted.map(|(_, noted)| noted).collect();
        found.sort_unstable_by_key(|noted| noted.number);
        Notes { notes: found.into_iter().map(|noted| noted.note.clone()).collect(), next: self.count }
    }

    pub(super) fn is_noted(&self, register: Register, id: &str) -> bool {
        let noted = self.noted.get(&(register, id.to_owned()));
        noted.is_some_and(|noted| noted.note.until > Utc::now())
    }

    pub(super) fn lock(&mut self, lock: &Lock, now: Instant) -> Locked {
        self.locks.retain(|_, held| held.until > now);
        let until = now + lock.lifetime.min(LONGEST);
        match self.locks.get_mut(&lock.key) {
            Some(held) if held.holder != lock.holder => return Locked::Held(Some(held.holder.clone())),
            Some(held) => held.until = held.until.max(until),
            None => {
                let held = Held { holder: lock.holder.clone(), until };
                self.locks.insert(lock.key.clone(), held);
            }
        }
        Locked::Taken
    }

    /// Releases the lock that a message holds, if any.
    pub(super) fn unlock_for(&mut self, headers: &Headers) {
        if let (Some(key), Some(holder)) = (headers.lock_key(), headers.id())
            && self.locks.get(key).is_some_and(|held| held.holder == holder)
        {
            self.locks.remove(key);
        }
    }

    pub(super) fn unlock(&mut self, lock: &Lock) {
        if self.locks.get(&lock.key).is_some_and(|held| held.holder == lock.holder) {
            self.locks.remove(&lock.key);
        }
    }
}
