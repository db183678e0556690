//! What is known about one schedule.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::origin::Origin;
use super::run::{Run, add};
use crate::schedule::{Schedule, handled_until};

/// A value and the position in the log where it was set. The later one wins, even if it is read first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Versioned<T> {
    at: u64,
    value: Option<T>,
}

impl<T> Default for Versioned<T> {
    fn default() -> Self {
        Self { at: 0, value: None }
    }
}

impl<T> Versioned<T> {
    fn is_default(&self) -> bool {
        self.at == 0
    }

    pub(super) fn say(&mut self, at: u64, value: Option<T>) {
        self.merge(Self { at, value });
    }

    fn merge(&mut self, other: Self) {
        if other.at > self.at {
            *self = other;
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

/// A schedule as one origin describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) schedule: Schedule,
    /// The program that declared it.
    pub(crate) program: String,
    /// Due times before this do not count.
    pub(crate) since: DateTime<Utc>,
}

impl Definition {
    fn is_only_for(&self, due: DateTime<Utc>) -> bool {
        self.schedule.timing.as_at() == Some(due)
    }
}

/// Everything known about a schedule name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    #[serde(skip_serializing_if = "Versioned::is_default")]
    code: Versioned<Definition>,
    #[serde(skip_serializing_if = "Versioned::is_default")]
    file: Versioned<Definition>,
    #[serde(skip_serializing_if = "Versioned::is_default")]
    hand: Versioned<Definition>,
    /// The end of the pause; the maximum time stands for "until it is resumed".
    #[serde(skip_serializing_if = "Versioned::is_default")]
    pub(super) pause: Versioned<DateTime<Utc>>,
    /// When it was resumed.
    #[serde(skip_serializing_if = "Versioned::is_default")]
    pub(super) resumed: Versioned<DateTime<Utc>>,
    /// The due time whose call waits for the previous call to end.
    #[serde(skip_serializing_if = "Versioned::is_default")]
    pub(super) waits: Versioned<DateTime<Utc>>,
    /// The first due time whose call its queue has refused: it and all later ones remain to be sent.
    #[serde(skip_serializing_if = "Versioned::is_default")]
    refused: Versioned<DateTime<Utc>>,
    /// The definition that was removed when its only call was sent. RabbitMQ records that before a full queue refuses the
    /// call, which brings the definition back.
    #[serde(skip)]
    spent: Option<Definition>,
    /// The last due time that was handled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<DateTime<Utc>>,
    /// The last calls, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) runs: Vec<Run>,
}

impl Record {
    pub(super) fn of_mut(&mut self, origin: &Origin) -> &mut Versioned<Definition> {
        match origin {
            Origin::Code => &mut self.code,
            Origin::File => &mut self.file,
            Origin::Hand => &mut self.hand,
        }
    }

    pub(crate) fn of(&self, origin: &Origin) -> Option<&Definition> {
        match origin {
            Origin::Code => self.code.get(),
            Origin::File => self.file.get(),
            Origin::Hand => self.hand.get(),
        }
    }

    /// The definition in force.
    pub(crate) fn in_force(&self) -> Option<(Origin, &Definition)> {
        [Origin::Hand, Origin::File, Origin::Code]
            .into_iter()
            .find_map(|origin| self.of(&origin).map(|definition| (origin, definition)))
    }

    /// The due time whose call waits.
    pub(crate) fn waiting(&self) -> Option<DateTime<Utc>> {
        self.waits.get().copied()
    }

    /// The first due time whose call its queue has refused.
    pub(crate) fn refused(&self) -> Option<DateTime<Utc>> {
        self.refused.get().copied()
    }

    /// The end of the pause, if there is one.
    pub(crate) fn paused_until(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.pause.get().copied().filter(|until| *until > now)
    }

    /// The due time up to which nothing remains to be sent, given that everything was sent until `mark`.
    pub(crate) fn handled_until(
        &self,
        definition: &Definition,
        mark: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> DateTime<Utc> {
        let ended = self.pause.get().copied().filter(|until| *until <= now);
        let before_refused = self.refused().map(|due| due - TimeDelta::milliseconds(1));
        let bounds = [before_refused.or(self.last), self.resumed.get().copied(), ended];
        let bound = bounds.into_iter().flatten().fold(definition.since, DateTime::max);
        match mark {
            Some(mark) if mark > bound && before_refused.is_none() => {
                handled_until(&definition.schedule, bound, mark)
            }
            _ => bound,
        }
    }

    /// Merges a record from an `Entry::Keep`.
    pub(super) fn merge(&mut self, other: Self) {
        self.code.merge(other.code);
        self.file.merge(other.file);
        self.hand.merge(other.hand);
        self.pause.merge(other.pause);
        self.resumed.merge(other.resumed);
        self.waits.merge(other.waits);
        self.refused.merge(other.refused);
        self.last = self.last.max(other.last);
        other.runs.into_iter().for_each(|run| add(&mut self.runs, run));
    }

    /// Adjusts the record to a clock that was set back to `now`: a schedule that is not bound to a time of the day continues
    /// from there.
    pub(super) fn reset(&mut self, now: DateTime<Utc>, at: u64) {
        let is_of_the_day = self.in_force().is_some_and(|(_, found)| found.schedule.timing.is_of_the_day());
        for said in [&mut self.code, &mut self.file, &mut self.hand] {
            if let Some(definition) = &mut said.value {
                definition.since = definition.since.min(now);
            }
        }
        if let Some(resumed) = &mut self.resumed.value {
            *resumed = (*resumed).min(now);
        }
        if !is_of_the_day {
            self.last = None;
        }
        if self.refused().is_some_and(|due| due > now) {
            self.refused.say(at, None);
        }
    }

    /// Records a sent call. A schedule that was put by hand for a single time is then removed.
    pub(super) fn sent(&mut self, run: Run, at: u64) {
        let due = run.due;
        self.mark_handled(due, at);
        self.ran(run);
        if self.waiting() == Some(due) {
            self.waits.say(at, None);
        }
        if self.hand.get().is_some_and(|hand| hand.is_only_for(due)) {
            self.spent = self.hand.value.take();
            self.hand.say(at, None);
        }
    }

    /// Adds a call to the last ones.
    pub(super) fn ran(&mut self, run: Run) {
        add(&mut self.runs, run);
    }

    pub(super) fn mark_handled(&mut self, due: DateTime<Utc>, at: u64) {
        self.last = self.last.max(Some(due));
        if self.refused().is_some_and(|refused| refused <= due) {
            self.refused.say(at, None);
        }
    }

    /// Records that the queue has refused a call.
    pub(super) fn refuse(&mut self, due: DateTime<Utc>, at: u64) {
        self.refused.say(at, Some(due));
        if self.waiting() == Some(due) {
            self.waits.say(at, None);
        }
        let spent = self.spent.take();
        if self.hand.get().is_none() && spent.as_ref().is_some_and(|spent| spent.is_only_for(due)) {
            self.hand.say(at, spent);
        }
    }
}
