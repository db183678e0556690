//! Names that many rows share, stored once.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

/// What a label names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LabelKind {
    Task = 0,
    Queue = 1,
    Worker = 2,
    Fault = 3,
}

/// The most labels kept in memory: generated names must not fill it.
const MOST: usize = 20_000;

/// A cache of the table `label`, whose rows never change.
#[derive(Default)]
pub(super) struct Labels {
    numbers: HashMap<LabelKind, HashMap<String, i64>>,
    texts: HashMap<i64, String>,
}

impl Labels {
    /// Clears the cache: a failed transaction takes back the labels that it inserted.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The number of a name, inserted if it is new.
    pub(super) fn number(&mut self, db: &Connection, kind: LabelKind, text: &str) -> rusqlite::Result<i64> {
        if let Some(number) = self.numbers.get(&kind).and_then(|numbers| numbers.get(text)) {
            return Ok(*number);
        }
        let number = match find(db, kind, text)? {
            Some(number) => number,
            None => {
                db.prepare_cached("INSERT INTO label (kind, text) VALUES (?1, ?2)")?
                    .execute((kind as i64, text))?;
                db.last_insert_rowid()
            }
        };
        self.remember(kind, number, text);
        Ok(number)
    }

    /// Like [`number`](Self::number), for a name that may be missing.
    pub(super) fn optional(
        &mut self,
        db: &Connection,
        kind: LabelKind,
        text: Option<&str>,
    ) -> rusqlite::Result<Option<i64>> {
        text.map(|text| self.number(db, kind, text)).transpose()
    }

    /// The name of a number.
    pub(super) fn text(&mut self, db: &Connection, number: Option<i64>) -> rusqlite::Result<Option<String>> {
        let Some(number) = number else { return Ok(None) };
        if let Some(text) = self.texts.get(&number) {
            return Ok(Some(text.clone()));
        }
        let mut select = db.prepare_cached("SELECT text FROM label WHERE id = ?1")?;
        let text: Option<String> = select.query_row([number], |row| row.get(0)).optional()?;
        if let Some(text) = &text {
            self.make_room();
            self.texts.insert(number, text.clone());
        }
        Ok(text)
    }

    fn remember(&mut self, kind: LabelKind, number: i64, text: &str) {
        self.make_room();
        self.numbers.entry(kind).or_default().insert(text.to_owned(), number);
        self.texts.insert(number, text.to_owned());
    }

    fn make_room(&mut self) {
        if self.texts.len() >= MOST || self.numbers.values().map(HashMap::len).sum::<usize>() >= MOST {
            self.clear();
        }
    }
}

/// The number of a name, if it has one.
pub(super) fn find(db: &Connection, kind: LabelKind, text: &str) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM label WHERE kind = ?1 AND text = ?2")?
        .query_row((kind as i64, text), |row| row.get(0))
        .optional()
}

/// The numbers of the names that match a pattern with `*`, `?` and `[…]`, no more than `most`.
pub(super) fn matching(
    db: &Connection,
    kind: LabelKind,
    pattern: &str,
    most: i64,
) -> rusqlite::Result<Vec<i64>> {
    db.prepare_cached("SELECT id FROM label WHERE kind = ?1 AND text GLOB ?2 LIMIT ?3")?
        .query_map((kind as i64, pattern, most), |row| row.get(0))?
        .collect()
}
