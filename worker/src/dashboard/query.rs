//! A search as URL parameters, shared by the pages and the API.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use super::path::encoded;
use crate::history::{Filter, JobState};

/// The fields of the search form. Empty fields are ignored.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Query {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) queue: String,
    pub(crate) worker: String,
    pub(crate) text: String,
    pub(crate) root: String,
    pub(crate) parent: String,
    pub(crate) from: String,
    pub(crate) to: String,
    /// The cursor after which this page of results starts.
    pub(crate) after: String,
}

impl Query {
    /// Returns the corresponding filter for the history.
    ///
    /// # Errors
    /// Fails on an unknown state or an invalid time.
    pub(crate) fn filter(&self) -> Result<Filter, String> {
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let states = self.state.split(',').map(str::trim).filter(|state| !state.is_empty()).map(state);
        Ok(Filter {
            id: text(&self.id),
            name: text(&self.name),
            states: states.collect::<Result<_, _>>()?,
            queue: text(&self.queue),
            worker: text(&self.worker),
            text: text(&self.text),
            root: text(&self.root),
            parent: text(&self.parent),
            from: text(&self.from).map(|from| time(&from)).transpose()?,
            to: text(&self.to).map(|to| time(&to)).transpose()?,
        })
    }

    /// Returns whether no search field is set.
    pub(crate) fn is_empty(&self) -> bool {
        Self { after: String::new(), ..self.clone() } == Self::default()
    }

    /// Returns the URL path of this search at another cursor.
    pub(crate) fn path(&self, after: &str) -> String {
        let fields = [
            ("id", self.id.as_str()),
            ("name", &self.name),
            ("state", &self.state),
            ("queue", &self.queue),
            ("worker", &self.worker),
            ("text", &self.text),
            ("root", &self.root),
            ("parent", &self.parent),
            ("from", &self.from),
            ("to", &self.to),
            ("after", after),
        ];
        let set = fields.into_iter().filter(|(_, value)| !value.is_empty());
        let pairs: Vec<String> = set.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        if pairs.is_empty() { "/tasks".into() } else { format!("/tasks?{}", pairs.join("&")) }
    }
}

/// Parses the name of a state, in any case.
fn state(name: &str) -> Result<JobState, String> {
    let found = JobState::all().find(|state| state.as_str().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let known: Vec<&str> = JobState::all().map(JobState::as_str).collect();
        format!("no state `{name}`: the states are {}", known.join(", "))
    })
}

/// Parses a time as sent by a browser (in UTC), or in RFC 3339.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"];
    let read = local.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    read.map(|time| time.and_utc())
        .ok_or_else(|| format!("no time `{text}`: expected `2026-11-26T15:00`, in UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_filter_and_back() {
        let query = Query { state: "failure, Retry".into(), text: "a b".into(), ..Query::default() };
        let filter = query.filter().expect("a filter");
        assert_eq!(filter.states, [JobState::Failure, JobState::Retry]);
        assert_eq!(filter.text.as_deref(), Some("a b"));
        assert_eq!(query.path("7"), "/tasks?state=failure%2C%20Retry&text=a%20b&after=7");
        assert!(!query.is_empty() && Query { after: "7".into(), ..Query::default() }.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |query: Query| query.filter().expect_err("a mistake");
        assert!(wrong(Query { state: "LOST".into(), ..Query::default() }).contains("PENDING"));
        assert!(wrong(Query { from: "yesterday".into(), ..Query::default() }).contains("2026-11-26T15:00"));
        assert!(
            Query {
                from: "2026-11-26T15:00".into(),
                to: "2026-11-26T15:00:00+01:00".into(),
                ..Query::default()
            }
            .filter()
            .is_ok()
        );
    }
}
