//! Revocation by stamp: it revokes every call that has one of these stamps, whatever its id.
//!
//! As in Celery, a worker knows only the stamps that it was sent itself, and forgets them when it stops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::message::Headers;

/// How many values are kept.
const MOST: usize = 50_000;

/// The values of each stamp.
pub(crate) type Stamps = BTreeMap<String, BTreeSet<String>>;

/// The revoked stamps.
#[derive(Debug, Default)]
pub(crate) struct RevokedStamps {
    /// Checked for each message, so that most workers never take the lock.
    any: AtomicBool,
    known: Mutex<Stamps>,
}

impl RevokedStamps {
    /// Adds stamps; false when there are too many.
    pub(crate) fn add(&self, stamps: &Stamps) -> bool {
        let mut known = self.known();
        let count = |stamps: &Stamps| stamps.values().map(BTreeSet::len).sum::<usize>();
        if count(&known) + count(stamps) > MOST {
            return false;
        }
        for (name, values) in stamps {
            known.entry(name.clone()).or_default().extend(values.iter().cloned());
        }
        self.any.store(!known.is_empty(), Ordering::Release);
        true
    }

    /// True for a call with a stamp that was revoked.
    pub(crate) fn contain(&self, headers: &Headers) -> bool {
        self.any.load(Ordering::Acquire) && has_one_of(headers, &self.known())
    }

    fn known(&self) -> MutexGuard<'_, Stamps> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True for a call with one of these stamps.
pub(crate) fn has_one_of(headers: &Headers, stamps: &Stamps) -> bool {
    let Some(own) = headers.get("stamps").and_then(Value::as_object) else { return false };
    stamps.iter().any(|(name, revoked)| {
        own.get(name).is_some_and(|value| values(value).iter().any(|value| revoked.contains(value)))
    })
}

/// Reads the stamps of a command: `{"stamp": "value"}`, `{"stamp": ["value"]}` or `["stamp=value"]`.
pub(crate) fn read(headers: &Value) -> Option<Stamps> {
    let mut stamps = Stamps::new();
    match headers {
        Value::Object(named) => {
            let named: &Map<String, Value> = named;
            for (name, value) in named {
                stamps.entry(name.clone()).or_default().extend(values(value));
            }
        }
        Value::Array(pairs) => {
            for pair in pairs {
                let (name, value) = pair.as_str()?.split_once('=')?;
                stamps.entry(name.to_owned()).or_default().insert(value.to_owned());
            }
        }
        _ => return None,
    }
    (!stamps.is_empty()).then_some(stamps)
}

/// One value or several, as texts.
fn values(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        one => vec![text(one)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_call_with_a_revoked_stamp_is_found() {
        let revoked = RevokedStamps::default();
        let mut headers = Headers::for_task("t", "a");
        headers.set("stamps", json!({"tenant": ["acme", 7], "other": "x"}));
        assert!(!revoked.contain(&headers));
        for (named, found) in [
            (json!({"tenant": "else"}), false),
            (json!({"missing": ["acme"]}), false),
            (json!(["tenant=acme"]), true),
            (json!({"tenant": [7]}), true),
            (json!({"other": "x"}), true),
        ] {
            let stamps = read(&named).expect("stamps");
            assert_eq!(has_one_of(&headers, &stamps), found, "{named}");
        }
        assert!(revoked.add(&read(&json!({"tenant": "acme"})).expect("stamps")));
        assert!(revoked.contain(&headers) && !revoked.contain(&Headers::for_task("t", "b")));
        for nonsense in [json!(null), json!([]), json!({}), json!(["tenant"]), json!([1])] {
            assert_eq!(read(&nonsense), None, "{nonsense}");
        }
    }
}
