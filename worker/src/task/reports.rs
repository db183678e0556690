//! What a running call reports: its states, and the calls that it sends. The worker collects it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::message::Progress;
use crate::state::State;

/// How many children are listed.
const MAX_CHILDREN: usize = 1000;

/// A state that a running call reports.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) state: State,
    /// The details, as JSON.
    pub(crate) meta: Box<RawValue>,
}

impl Report {
    /// The progress of the call, if it is reported.
    pub(crate) fn progress(&self) -> Option<Progress> {
        match &self.state {
            State::Custom(_) => Progress::from_meta(&serde_json::from_str(self.meta.get()).ok()?),
            _ => None,
        }
    }
}

/// The latest report of a call, and its children. Most calls have neither, and pay next to nothing for it.
#[derive(Default)]
pub(crate) struct Reports {
    said: Mutex<Said>,
    news: Notify,
}

#[derive(Default)]
struct Said {
    latest: Option<Report>,
    /// The number of reports; those up to `written` are written or out of date.
    count: u64,
    written: u64,
    children: Vec<String>,
}

impl Reports {
    /// Replaces the latest report.
    pub(crate) fn put(&self, report: Report) {
        let mut said = self.said();
        said.latest = Some(report);
        said.count += 1;
        drop(said);
        self.news.notify_one();
    }

    /// Resolves after a report. For one listener.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// The latest report.
    pub(crate) fn latest(&self) -> Option<Report> {
        self.said().latest.clone()
    }

    /// The latest report with its number, unless it is written.
    pub(crate) fn unwritten(&self) -> Option<(u64, Report)> {
        let said = self.said();
        if said.written < said.count { Some((said.count, said.latest.clone()?)) } else { None }
    }

    /// Marks this report and those before it as written.
    pub(crate) fn written(&self, number: u64) {
        let mut said = self.said();
        said.written = said.written.max(number);
    }

    /// Records another call that this one has sent.
    pub(crate) fn add_child(&self, id: &str) {
        let mut said = self.said();
        if said.children.len() < MAX_CHILDREN {
            said.children.push(id.to_owned());
        }
    }

    /// The calls that it has sent.
    pub(crate) fn children(&self) -> Vec<String> {
        self.said().children.clone()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // A panic elsewhere leaves the reports intact.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn report(name: &str) -> Report {
        Report { state: State::Custom(name.into()), meta: RawValue::NULL.to_owned() }
    }

    #[test]
    fn the_latest_report_is_kept_until_it_is_written() {
        let reports = Reports::default();
        assert!(reports.unwritten().is_none() && reports.news().now_or_never().is_none());
        reports.put(report("A"));
        reports.put(report("B"));
        assert!(reports.news().now_or_never().is_some());
        let (number, latest) = reports.unwritten().expect("one");
        assert_eq!(latest.state.as_str(), "B");
        reports.put(report("C"));
        reports.written(number);
        let (number, latest) = reports.unwritten().expect("it came while the other one was written");
        assert_eq!(latest.state.as_str(), "C");
        reports.written(number);
        assert!(reports.unwritten().is_none());
    }
}
