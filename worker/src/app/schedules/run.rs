//! The last calls of a schedule.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// How many calls are kept.
const KEPT: usize = 5;

/// A call that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(super) due: DateTime<Utc>,
    /// When it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) on: Option<DateTime<Utc>>,
    /// How often the clock had been set back by then: a part of the id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) era: u32,
    /// The id of a call that was sent by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by_hand: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(era: &u32) -> bool {
    *era == 0
}

impl Run {
    pub(super) fn id(&self, schedule: &Schedule) -> String {
        self.by_hand.clone().unwrap_or_else(|| schedule.call_id(self.due, self.era))
    }

    fn moment(&self) -> DateTime<Utc> {
        self.on.unwrap_or(self.due)
    }
}

/// Adds a call to the last ones, the newest first, unless it is already there.
pub(super) fn add(runs: &mut Vec<Run>, run: Run) {
    let is_same = |other: &Run| (other.due, other.era, &other.by_hand) == (run.due, run.era, &run.by_hand);
    if runs.iter().any(is_same) {
        return;
    }
    let at = runs.partition_point(|other| other.moment() > run.moment());
    runs.insert(at, run);
    runs.truncate(KEPT);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(due: i64, on: i64) -> Run {
        let time = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
        Run { due: time(due), on: Some(time(on)), era: 0, by_hand: None }
    }

    #[test]
    fn the_newest_are_kept_whatever_their_order() {
        let mut runs = Vec::new();
        for due in [3, 1, 2, 7, 5, 6, 4, 4, 3] {
            add(&mut runs, run(due, due));
        }
        assert_eq!(runs, [7, 6, 5, 4, 3].map(|due| run(due, due)));
        // A call that was due long ago may be sent now.
        add(&mut runs, run(0, 9));
        assert_eq!(runs[0], run(0, 9));
        add(&mut runs, Run { by_hand: Some("x".into()), ..run(0, 9) });
        assert_eq!(runs[0].by_hand.as_deref(), Some("x"));
    }
}
