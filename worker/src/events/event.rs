//! One event, as data.

use serde::Serialize;
use serde_json::{Map, Value};

use super::EventKind;
use crate::error::{Error, Result, Undecodable};

macro_rules! event {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// One event. Fields that an event of its kind does not have are `None`.
        ///
        /// The names of the fields are those on the wire. All are Celery's, except for `attempt`, `wait`, `delay`, `reason`,
        /// `dropped` and those of `mq-reported`. Our events have `queue` and `name` more often than Celery's.
        #[derive(Clone, Debug, Default, PartialEq, Serialize)]
        #[non_exhaustive]
        pub struct Event {
            /// What it reports.
            #[serde(rename = "type")]
            pub kind: EventKind,
            /// Who reports it: a worker's name, or `gen<pid>@<host>` for a producer.
            pub hostname: String,
            /// When, in seconds since 1970.
            pub timestamp: f64,
            /// How many hours the reporter's time zone is west of UTC.
            pub utcoffset: f64,
            /// The reporter's process.
            pub pid: u32,
            /// The reporter's logical clock, which Celery uses to order events.
            pub clock: u64,
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
            /// Fields that this crate does not know.
            #[serde(flatten)]
            pub other: Map<String, Value>,
        }

        impl Event {
            /// Takes the fields out of a JSON object. A field of an unexpected type stays in `other`: the event must not be
            /// lost because of it.
            fn take_fields(&mut self, object: &mut Map<String, Value>) {
                $(self.$field = take(object, stringify!($field));)*
            }
        }
    };
}

event! {
    /// The id of the call.
    uuid: String,
    /// The task's name.
    name: String,
    /// The positional arguments, as Python would print them, shortened.
    args: String,
    /// The named arguments, as Python would print them, shortened.
    kwargs: String,
    /// The first call of the workflow.
    root_id: String,
    /// The call that sent this one.
    parent_id: String,
    /// How many times it was retried before.
    retries: u64,
    /// The earliest time for it to run, as ISO 8601.
    eta: String,
    /// When it expires, as ISO 8601.
    expires: String,
    /// Its queue; of `mq-dead-lettered`, the dead-letter queue.
    queue: String,
    /// The exchange that it was published to.
    exchange: String,
    /// The routing key that it was published with.
    routing_key: String,
    /// Of `task-succeeded`: the value, as Python would print it, shortened.
    result: String,
    /// Of `task-succeeded`: how long the run took, in seconds.
    runtime: f64,
    /// Of `task-failed` and `task-retried`: the error, as Python would print it.
    exception: String,
    /// Of `task-failed` and `task-retried`: where it happened, or the error once more.
    traceback: String,
    /// Of `task-revoked`: it was stopped while it ran.
    terminated: bool,
    /// Of `task-revoked`: the signal that stopped it.
    signum: i64,
    /// Of `task-revoked`: it had expired.
    expired: bool,
    /// Of `task-rejected`: the message returned to its queue.
    requeue: bool,
    /// Which run this is, the first being 1. Runs that crashed their worker count.
    attempt: u64,
    /// Of `task-started`: how long it waited in its queue since it was due, in seconds, where that is known.
    wait: f64,
    /// Of `task-retried` and `mq-delayed`: after how many seconds it can run.
    delay: f64,
    /// The reason; of `mq-dead-lettered` and `task-failed`, as in the header `mq-dead-reason`.
    reason: String,
    /// Of `mq-reported`: the state that the call reports, such as `PROGRESS`.
    state: String,
    /// Of `mq-reported`: how much is done.
    current: u64,
    /// Of `mq-reported`: how much there is in total; 0 if unknown.
    total: u64,
    /// Of `mq-reported`: what is being done; for states other than `PROGRESS` their `meta`, as Python would print it,
    /// shortened.
    description: String,
    /// Of a worker: how many seconds there are between its heartbeats.
    freq: f64,
    /// Of a worker: how many tasks it runs.
    active: u64,
    /// Of a worker: how many tasks it has started.
    processed: u64,
    /// Of a worker: the load of its machine over 1, 5 and 15 minutes.
    loadavg: [f64; 3],
    /// Of a worker: the name of its software.
    sw_ident: String,
    /// Of a worker: the version of its software.
    sw_ver: String,
    /// Of a worker: its operating system.
    sw_sys: String,
    /// Of a worker: how many of its events were dropped since it started.
    dropped: u64,
}

impl Event {
    /// An event with nothing but its kind.
    pub fn new(kind: EventKind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// Hides the arguments, the result and the description that the call reports.
    #[must_use]
    pub fn without_values(self) -> Self {
        let hidden = || Some("'[hidden]'".to_owned());
        match self.kind {
            EventKind::TaskSucceeded => Self { result: hidden(), ..self },
            EventKind::TaskSent | EventKind::TaskReceived => {
                Self { args: hidden(), kwargs: hidden(), ..self }
            }
            EventKind::Reported => Self { description: self.description.and_then(|_| hidden()), ..self },
            _ => self,
        }
    }

    /// Reads the body of a message: one event, or a list of them. Items of the list that are not events are left out.
    ///
    /// # Errors
    /// A body that is not JSON, or neither an object nor a list.
    pub fn read(body: &[u8]) -> Result<Vec<Self>> {
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            Error::codec("the body is not JSON, so it is not an event").with_source(Undecodable::from(&error))
        })?;
        match value {
            Value::Array(events) => Ok(events.into_iter().filter_map(Self::from_value).collect()),
            Value::Object(event) => Ok(Self::from_object(event).into_iter().collect()),
            _ => Err(Error::codec("the body is neither an event nor a list of events")),
        }
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Object(event) => Self::from_object(event),
            _ => None,
        }
    }

    /// `None` for an object without a type.
    fn from_object(mut object: Map<String, Value>) -> Option<Self> {
        let kind = EventKind::from(object.get("type")?.as_str()?);
        object.remove("type");
        let mut event = Self {
            kind,
            hostname: take(&mut object, "hostname").unwrap_or_default(),
            timestamp: take(&mut object, "timestamp").unwrap_or_default(),
            utcoffset: take(&mut object, "utcoffset").unwrap_or_default(),
            pid: take(&mut object, "pid").unwrap_or_default(),
            clock: take(&mut object, "clock").unwrap_or_default(),
            ..Self::default()
        };
        event.take_fields(&mut object);
        event.other = object;
        Some(event)
    }
}

/// Takes a field of the right type; null counts as no field.
fn take<T: serde::de::DeserializeOwned>(object: &mut Map<String, Value>, name: &str) -> Option<T> {
    let value = object.remove(name)?;
    if value.is_null() {
        return None;
    }
    match T::deserialize(&value) {
        Ok(value) => Some(value),
        Err(_) => {
            object.insert(name.to_owned(), value);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn celery_s_list_of_events_is_read() {
        let body = json!([
            {"hostname": "worker1@example", "utcoffset": 0.0, "pid": 14117, "clock": 14,
             "uuid": "c05f4a03", "name": "proj.add", "args": "(2, 3)", "kwargs": "{}", "root_id": "c05f4a03",
             "parent_id": null, "retries": 0, "eta": null, "expires": null, "timestamp": 1795330431.49129,
             "type": "task-received"},
            {"hostname": "worker1@example", "utcoffset": -2, "pid": 14117, "clock": 16, "uuid": "c05f4a03",
             "result": "5", "runtime": 0.0133, "timestamp": 1795330431.5, "type": "task-succeeded"},
            "no event", {"hostname": "without a type"},
        ]);
        let events = Event::read(body.to_string().as_bytes()).expect("a list");
        assert_eq!(events.len(), 2, "{events:?}");
        let received = &events[0];
        assert_eq!(received.kind, EventKind::TaskReceived);
        assert_eq!(
            (received.args.as_deref(), received.retries, &received.eta),
            (Some("(2, 3)"), Some(0), &None)
        );
        assert_eq!((events[1].result.as_deref(), events[1].utcoffset), (Some("5"), -2.0));
        assert!(events.iter().all(|event| event.other.is_empty()), "{events:?}");
    }

    #[test]
    fn a_strange_field_does_not_cost_the_event() {
        let body = json!({"type": "task-sent", "uuid": 7, "retries": "many", "colour": "red", "pid": -1});
        let events = Event::read(body.to_string().as_bytes()).expect("an event");
        assert_eq!(events[0].uuid, None);
        assert_eq!(events[0].other["retries"], "many");
        assert_eq!(events[0].other["colour"], "red");
        for nonsense in ["", "7", "null", "{"] {
            assert!(Event::read(nonsense.as_bytes()).expect_err("no event").is_codec(), "{nonsense}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut event = Event::new(EventKind::DeadLettered);
        event.hostname = "w@h".into();
        event.uuid = Some("a".into());
        event.wait = Some(0.5);
        event.loadavg = Some([1.0, 2.0, 3.5]);
        event.other.insert("mine".into(), json!([1]));
        let written = serde_json::to_vec(&event).expect("JSON");
        assert_eq!(Event::read(&written).expect("an event"), [event]);
    }
}
