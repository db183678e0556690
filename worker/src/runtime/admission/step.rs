//! A signature as stored in a message, and the headers of the call that it becomes.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::message::codec::Keywords;
use crate::message::headers::{LATEST, format_time, parse_time};
use crate::message::{Headers, typed};

/// One signature. Options that are null are not set.
#[derive(Deserialize)]
pub(crate) struct Step<'a> {
    #[serde(default)]
    pub(crate) task: String,
    #[serde(borrow, default)]
    pub(crate) args: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    kwargs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    options: Option<Keywords<'a>>,
    #[serde(default)]
    pub(crate) subtask_type: Option<String>,
    #[serde(default)]
    immutable: Option<bool>,
}

impl<'a> Step<'a> {
    /// True when it does not take the result of the previous step.
    pub(crate) fn is_immutable(&self) -> bool {
        self.immutable.unwrap_or_default()
    }

    /// An option, if it is set.
    pub(crate) fn option(&self, name: &str) -> Option<&'a RawValue> {
        let Keywords(options) = self.options.as_ref()?;
        let (_, value) = options.iter().find(|(key, _)| key == name)?;
        Some(*value).filter(|value| value.get() != "null")
    }

    /// An option, if it is set and of this type.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        typed::from_str(self.option(name)?.get()).ok()
    }

    /// An option that is a text and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.read(name).filter(|text: &String| !text.is_empty())
    }

    /// An option that is a list of signatures, or a single one.
    pub(crate) fn signatures(&self, name: &str) -> Option<Vec<Box<RawValue>>> {
        let option = self.option(name)?;
        match serde_json::from_str(option.get()) {
            Ok(list) => Some(list),
            Err(_) => Some(vec![option.to_owned()]),
        }
    }

    /// The arguments by name.
    pub(crate) fn kwargs(&self) -> &RawValue {
        let kwargs = self.kwargs.filter(|kwargs| kwargs.get() != "null");
        kwargs.unwrap_or_else(|| serde_json::from_str("{}").expect("an object"))
    }

    /// Why it cannot be sent as it is: a phrase that follows its name.
    pub(crate) fn problem(&self) -> Option<String> {
        if !self.kwargs().get().starts_with('{') {
            return Some("has named arguments that are not an object".into());
        }
        for (name, is_span, is_time) in
            [("countdown", true, false), ("expires", true, true), ("eta", false, true)]
        {
            let readable = match self.option(name).map(|_| self.read(name)) {
                None => true,
                Some(Some(Value::Number(_))) => is_span,
                Some(Some(Value::String(text))) => is_time && parse_time(&text).is_some(),
                Some(_) => false,
            };
            if !readable {
                return Some(format!("has an option `{name}` that is not a time"));
            }
        }
        if self.option("stamped_headers").is_some() && self.read::<Vec<String>>("stamped_headers").is_none() {
            return Some("has `stamped_headers` that are not a list of names".into());
        }
        let headers = self.option("headers")?;
        let Ok(headers) = serde_json::from_str::<BTreeMap<String, &RawValue>>(headers.get()) else {
            return Some("has `headers` that are not an object".into());
        };
        // A header is a `Value`, which cannot hold integers of more than 64 bits.
        let is_huge = |json: &str| {
            let digits = json.trim_start_matches('-');
            digits.bytes().all(|c| c.is_ascii_digit())
                && json.parse::<i64>().is_err()
                && json.parse::<u64>().is_err()
        };
        let (name, _) = headers.iter().find(|(_, value)| is_huge(value.get()))?;
        Some(format!("has an integer of more than 64 bits in its header `{name}`"))
    }

    /// The headers of its call, except those that name its place in the workflow.
    pub(crate) fn headers(&self, id: &str, now: DateTime<Utc>) -> Headers {
        // As in Celery, these may have any name; the options are set afterwards and override them.
        let own: Map<String, Value> = self.read("headers").unwrap_or_default();
        let mut headers: Headers = own.into_iter().collect();
        headers.set("task", self.task.as_str());
        headers.set("id", id);
        for (option, header) in [
            ("group_id", "group"),
            ("group_index", "group_index"),
            ("shadow", "shadow"),
            ("ignore_result", "ignore_result"),
            ("eta", "eta"),
            ("retries", "retries"),
            ("replaced_task_nesting", "replaced_task_nesting"),
        ] {
            if let Some(value) = self.read::<Value>(option) {
                headers.set(header, value);
            }
        }
        if let Some(eta) = self.seconds("countdown").filter(|wait| !wait.is_zero()) {
            headers.set("eta", format_time(later(now, eta)));
        }
        match self.read("expires") {
            Some(Value::String(text)) => headers.set("expires", text),
            Some(Value::Number(_)) => {
                let expires = later(now, self.seconds("expires").unwrap_or_default());
                if expires < LATEST {
                    headers.set("expires", format_time(expires));
                }
            }
            _ => {}
        }
        let limits = ["time_limit", "soft_time_limit"].map(|name| self.read::<Value>(name));
        if limits.iter().any(Option::is_some) {
            headers.set("timelimit", limits.map(Option::unwrap_or_default).to_vec());
        }
        if let Some(names) = self.read::<Vec<String>>("stamped_headers") {
            let stamp = |name: &String| Some((name.clone(), self.read::<Value>(name)?));
            let stamps: Map<String, Value> = names.iter().filter_map(stamp).collect();
            headers.set("stamped_headers", names);
            headers.set("stamps", stamps);
        }
        headers
    }

    /// An option in seconds. Negative values count as zero, values out of range as the longest duration.
    fn seconds(&self, name: &str) -> Option<Duration> {
        let seconds: f64 = self.read(name)?;
        Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
    }
}

fn later(now: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    let wait = chrono::Duration::from_std(wait).ok();
    wait.and_then(|wait| now.checked_add_signed(wait)).unwrap_or(LATEST)
}
