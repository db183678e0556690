//! The progress of a running call: Celery's convention for `PROGRESS`.

use std::fmt;

use serde_json::{Value, json};

/// The progress of a running call.
///
/// On the wire it is the `meta` of Celery's `update_state(state="PROGRESS", meta={"current": .., "total": ..})`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How much is done.
    pub current: u64,
    /// How much there is in total; 0 if unknown.
    pub total: u64,
    /// What is being done; may be empty.
    pub description: String,
}

impl Progress {
    /// The state under which progress is reported.
    pub const STATE: &str = "PROGRESS";

    /// Progress of `current` out of `total`.
    pub fn new(current: u64, total: u64, description: impl Into<String>) -> Self {
        Self { current, total, description: description.into() }
    }

    /// From 0 to 1; `None` if the total is not known.
    pub fn fraction(&self) -> Option<f64> {
        (self.total > 0).then(|| (self.current as f64 / self.total as f64).min(1.0))
    }

    /// The JSON that is stored.
    pub(crate) fn to_meta(&self) -> Value {
        let Self { current, total, description } = self;
        let percent = self.fraction().map(|fraction| (fraction * 10_000.0).round() / 100.0);
        json!({ "current": current, "total": total, "percent": percent, "description": description })
    }

    /// Reads what any program has stored; `None` if it is not about progress.
    pub(crate) fn from_meta(meta: &Value) -> Option<Self> {
        // Python's programs count in floats too.
        let number = |name: &str| {
            let value = meta.get(name)?;
            value.as_u64().or_else(|| value.as_f64().map(|number| number.max(0.0) as u64))
        };
        let current = number("current")?;
        let text = ["description", "status", "message"].iter().find_map(|name| meta.get(*name)?.as_str());
        Some(Self::new(current, number("total").unwrap_or_default(), text.unwrap_or_default()))
    }
}

/// `3 of 12 (25 %): resizing`.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.current)?;
        if let Some(fraction) = self.fraction() {
            write!(f, " of {} ({:.0} %)", self.total, (fraction * 100.0).floor())?;
        }
        if !self.description.is_empty() {
            write!(f, ": {}", self.description)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_written_for_people() {
        for (progress, text) in [
            (Progress::new(3, 12, "resizing"), "3 of 12 (25 %): resizing"),
            (Progress::new(999, 1000, ""), "999 of 1000 (99 %)"),
            (Progress::new(7, 0, "copying"), "7: copying"),
        ] {
            assert_eq!(progress.to_string(), text);
        }
    }

    #[test]
    fn progress_is_read_from_what_programs_write() {
        let written = Progress::new(3, 12, "resizing").to_meta();
        assert_eq!(written["percent"], 25.0);
        for (meta, progress) in [
            (written, Some(Progress::new(3, 12, "resizing"))),
            (json!({"current": 1.9, "total": 4, "status": "copying"}), Some(Progress::new(1, 4, "copying"))),
            (json!({"current": 7}), Some(Progress::new(7, 0, ""))),
            (json!({"current": -1, "total": null}), Some(Progress::new(0, 0, ""))),
            (json!({"total": 7}), None),
            (json!("half"), None),
        ] {
            assert_eq!(Progress::from_meta(&meta), progress, "{meta}");
        }
    }

    #[test]
    fn a_fraction_is_never_more_than_all() {
        assert_eq!(Progress::new(5, 4, "").fraction(), Some(1.0));
        assert_eq!(Progress::new(5, 0, "").fraction(), None);
    }
}
