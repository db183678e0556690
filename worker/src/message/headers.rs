//! The header table of a message, with typed accessors for Celery's headers.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

pub use super::iso8601::parse_time;
use super::name_lengths::NameLengths;

/// Headers that this crate adds to Celery's. Receivers ignore headers that they do not know.
pub mod names {
    /// Why a message is in a dead-letter queue.
    pub const DEAD_REASON: &str = "mq-dead-reason";
    /// The error text of the last attempt.
    pub const DEAD_ERROR: &str = "mq-dead-error";
    /// The queue from which a dead letter came.
    pub const DEAD_QUEUE: &str = "mq-dead-queue";
    /// When it became a dead letter (ISO 8601).
    pub const DEAD_AT: &str = "mq-dead-at";
    /// The routing key of the first publish of a message.
    pub const ROUTING_KEY: &str = "mq-routing-key";
    /// The exchange of the first publish of a message.
    pub const EXCHANGE: &str = "mq-exchange";
    /// Set on a plain message that was assigned to a task: its payload is the one argument.
    pub const PLAIN: &str = "mq-plain";
    /// Set on the reply to a plain message whose task failed: the kind of its error. The body is the text.
    pub const ERROR: &str = "mq-error";
    /// The attempts that failed: a list of tables with `attempt`, `at`, `error` and `worker`.
    pub const HISTORY: &str = "mq-history";
    /// Set on a call of a unique task: a list of its lock's key and lifetime in milliseconds.
    pub const UNIQUE: &str = "mq-unique";
    /// Set in place of properties that cannot be read: the reason.
    pub const UNREADABLE: &str = "mq-unreadable";
    /// The crash count: how many workers died while they held the message.
    pub const CRASHES: &str = "mq-crashes";
    /// How often the message was held back by a pause of its task.
    pub const HELD: &str = "mq-held";
    /// Set on a copy that had to be smaller than the message: the names of the headers that were dropped.
    pub const DROPPED: &str = "mq-dropped-headers";
    /// Set on a message with a crash count: the name of its next quarantine, see `runtime/admission/quarantine.rs`.
    pub const QUARANTINE: &str = "mq-quarantine";
    /// The name of the schedule that sent the call.
    pub const SCHEDULE: &str = "mq-schedule";
    /// When the schedule was due (ISO 8601).
    pub const SCHEDULED_AT: &str = "mq-scheduled-at";
    /// Set on a scheduled call on RabbitMQ: the entry that its copy adds to the schedule log.
    pub const SCHEDULE_LOG: &str = "mq-schedule-log";
    /// Set on a scheduled call on RabbitMQ: the target that the fence's exchange routes it to.
    pub const SCHEDULE_TO: &str = "mq-schedule-to";
}

/// A header table. Unknown headers are kept and passed on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers {
    // Shared between the copies of a message: each publish makes one, and few of them are changed.
    table: Arc<Map<String, Value>>,
    lengths: NameLengths,
}

impl From<Map<String, Value>> for Headers {
    fn from(table: Map<String, Value>) -> Self {
        Self { lengths: NameLengths::of(&table), table: Arc::new(table) }
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.table.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
    }
}

impl Headers {
    /// The two headers that Celery's workers require.
    pub fn for_task(task: &str, id: &str) -> Self {
        let mut headers = Self::default();
        headers.set("task", task);
        headers.set("id", id);
        headers
    }

    /// One header, whatever its type.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&Value> {
        if self.lengths.may_contain(name) { self.table.get(name) } else { None }
    }

    /// One header, if it is a non-empty text.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// Sets a header, replacing an earlier value.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let name = name.into();
        self.lengths.add(&name);
        Arc::make_mut(&mut self.table).insert(name, value.into());
    }

    /// Removes a header.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        if !self.lengths.may_contain(name) {
            return None;
        }
        let removed = Arc::make_mut(&mut self.table).remove(name);
        self.lengths = NameLengths::of(&self.table);
        removed
    }

    /// Keeps only the headers whose names `keeps` accepts.
    pub(crate) fn retain(&mut self, mut keeps: impl FnMut(&str) -> bool) {
        Arc::make_mut(&mut self.table).retain(|name, _| keeps(name));
        self.lengths = NameLengths::of(&self.table);
    }

    /// True if there are no headers.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// All headers, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.table.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The task's name; its presence makes the message a protocol v2 task.
    pub fn task(&self) -> Option<&str> {
        self.get_str("task")
    }

    /// The task's id.
    pub fn id(&self) -> Option<&str> {
        self.get_str("id")
    }

    /// How many times the task was retried; 0 when absent.
    pub fn retries(&self) -> u32 {
        self.count("retries")
    }

    /// The crash count: how many workers died while they held the message; 0 when absent.
    pub fn crashes(&self) -> u32 {
        self.count(names::CRASHES)
    }

    /// How often the message was held back by a pause of its task.
    pub(crate) fn held(&self) -> u32 {
        self.count(names::HELD)
    }

    /// The key of the lock that a unique call holds.
    pub(crate) fn lock_key(&self) -> Option<&str> {
        self.get(names::UNIQUE)?.as_array()?.first()?.as_str()
    }

    fn count(&self, name: &str) -> u32 {
        self.get(name).and_then(Value::as_u64).map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    /// The earliest time to run. `Err` names a value that is not a time.
    pub fn eta(&self) -> Result<Option<DateTime<Utc>>, String> {
        self.time("eta")
    }

    /// The time after which the task must not run. `Err` names a value that is not a time.
    pub fn expires(&self) -> Result<Option<DateTime<Utc>>, String> {
        self.time("expires")
    }

    /// When the message became a dead letter.
    pub fn dead_at(&self) -> Option<DateTime<Utc>> {
        parse_time(self.get_str(names::DEAD_AT)?)
    }

    /// Records that a broker, not a worker, dead-lettered the message: it expired, or the queue was too long. A worker adds
    /// [`names::DEAD_ERROR`] once it has reported the failure to the callers that wait for the result.
    pub(crate) fn set_dropped_by_broker(&mut self, reason: &str, queue: &str, at: DateTime<Utc>) {
        self.set(names::DEAD_REASON, reason);
        self.set(names::DEAD_QUEUE, queue);
        self.set(names::DEAD_AT, format_time(at));
        self.remove(names::DEAD_ERROR);
    }

    /// The reason why a broker dead-lettered the message, until a worker has reported it.
    pub(crate) fn unreported_drop(&self) -> Option<&str> {
        self.get_str(names::DEAD_REASON).filter(|_| self.get(names::DEAD_ERROR).is_none())
    }

    fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, String> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => {
                parse_time(text).map(Some).ok_or_else(|| format!("header `{name}` is not a time: `{text}`"))
            }
            Some(other) => Err(format!("header `{name}` is not a time: `{other}`")),
        }
    }

    /// The time limits `(hard, soft)`; on the wire the hard one comes first. Celery treats 0 as no limit.
    pub fn time_limits(&self) -> (Option<Duration>, Option<Duration>) {
        let limit = |index: usize| {
            let seconds = self.get("timelimit")?.as_array()?.get(index)?.as_f64()?;
            (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
        };
        (limit(0), limit(1))
    }

    /// `Some(true)` when the sender wants no result; `None` leaves it to the task.
    pub fn ignore_result(&self) -> Option<bool> {
        self.get("ignore_result").and_then(Value::as_bool)
    }

    /// The group that the task belongs to.
    pub fn group(&self) -> Option<&str> {
        self.get_str("group")
    }

    /// The first task of the workflow; a task on its own is its own root.
    pub fn root_id(&self) -> Option<&str> {
        self.get_str("root_id").or_else(|| self.id())
    }

    /// The task that published this one.
    pub fn parent_id(&self) -> Option<&str> {
        self.get_str("parent_id")
    }
}

/// Headers that a broker adds on the way. They must not be sent again: RabbitMQ takes a message with an old `x-death` for
/// one that is dead-lettered in a cycle, and drops it.
pub(crate) fn is_trace(name: &str) -> bool {
    name == "x-death"
        || name == "x-delivery-count"
        || name == "x-acquired-count"
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

/// Headers that tell a broker or one of its plugins what to do with this one publish. A copy of the message must not
/// repeat them: it would go to further queues, be delayed again, or be dropped as a duplicate.
pub(crate) fn is_instruction(name: &str) -> bool {
    matches!(name, "CC" | "BCC" | "x-delay" | "x-match" | "x-deduplication-header" | "x-cache-ttl")
}

/// Celery's header names: those of its protocol, and those that its workers add.
const CELERY: [&str; 34] = [
    "argsrepr",
    "callbacks",
    "chain",
    "chord",
    "compression",
    "correlation_id",
    "delivery_info",
    "errbacks",
    "eta",
    "expires",
    "group",
    "group_index",
    "hostname",
    "id",
    "ignore_result",
    "is_eager",
    "kwargsrepr",
    "lang",
    "meth",
    "origin",
    "parent_id",
    "properties",
    "redelivered",
    "replaced_task_nesting",
    "reply_to",
    "retries",
    "root_id",
    "shadow",
    "stamped_headers",
    "stamps",
    "task",
    "taskset",
    "timelimit",
    "utc",
];

/// Returns the owner of a header that a sender may not set: the protocol, this crate or the broker.
pub(crate) fn owner(name: &str) -> Option<&'static str> {
    if CELERY.contains(&name) {
        Some("the protocol")
    } else if name.starts_with("mq-") {
        Some("mq-worker")
    } else if is_trace(name) || is_instruction(name) {
        Some("the broker")
    } else {
        None
    }
}

impl FromIterator<(String, Value)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(iter: I) -> Self {
        Self::from(iter.into_iter().collect::<Map<_, _>>())
    }
}

/// The last time that ISO 8601 can express with a four-digit year.
pub const LATEST: DateTime<Utc> =
    DateTime::from_timestamp(253_402_300_799, 999_999_000).expect("the end of the year 9999");

/// Writes a time as Python's `datetime.isoformat` does: six digits, `+00:00`. A time outside the years that Python
/// supports is clamped to them.
pub fn format_time(time: DateTime<Utc>) -> String {
    const EARLIEST: DateTime<Utc> = DateTime::from_timestamp(-62_135_596_800, 0).expect("the year 1");
    time.clamp(EARLIEST, LATEST).to_rfc3339_opts(SecondsFormat::Micros, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_while_it_is_there() {
        // As long as `eta` by the measure of `NameLengths`.
        let long = "x".repeat(3 + 64);
        let mut headers: Headers = [("eta".to_owned(), Value::Null)].into_iter().collect();
        assert_eq!(
            (headers.get("eta"), headers.get("utc"), headers.get(&long)),
            (Some(&Value::Null), None, None)
        );
        headers.set(&*long, 1);
        assert_eq!((headers.remove("utc"), headers.remove("eta")), (None, Some(Value::Null)));
        assert_eq!((headers.get("eta"), headers.get(&long)), (None, Some(&Value::from(1))));
        headers.set("expires", 2);
        assert_eq!(headers.remove("expires"), Some(Value::from(2)));
        assert_eq!(headers, [(long, Value::from(1))].into_iter().collect());
        headers.retain(|_| false);
        assert_eq!(headers, Headers::default());
    }

    #[test]
    fn times_are_written_as_python_writes_them() {
        let time = parse_time("2026-11-22T06:49:58.528108+00:00").expect("an ISO time");
        assert_eq!(format_time(time), "2026-11-22T06:49:58.528108+00:00");
    }

    #[test]
    fn times_beyond_the_years_of_python_are_written_as_the_nearest_one() {
        for (time, expected) in [
            (DateTime::<Utc>::MAX_UTC, "9999-12-31T23:59:59.999999+00:00"),
            (DateTime::<Utc>::MIN_UTC, "0001-01-01T00:00:00.000000+00:00"),
        ] {
            assert_eq!(format_time(time), expected);
            assert!(parse_time(expected).is_some());
        }
    }

    #[test]
    fn a_limit_of_nothing_is_none_and_one_beyond_all_time_is_the_longest() {
        let limits =
            |json: Value| [("timelimit".to_owned(), json)].into_iter().collect::<Headers>().time_limits();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(limits(serde_json::json!([0, 0.0])), (None, None));
        assert_eq!(limits(serde_json::json!([-1, null])), (None, None));
        assert_eq!(limits(serde_json::json!([30, 0.5])), (seconds(30), Some(Duration::from_millis(500))));
        assert_eq!(
            limits(serde_json::json!([Duration::MAX.as_secs_f64(), 1e300])),
            (Some(Duration::MAX), Some(Duration::MAX))
        );
    }

    #[test]
    fn the_names_of_others_are_known() {
        for (name, whose) in [
            ("id", Some("the protocol")),
            ("timelimit", Some("the protocol")),
            ("mq-anything", Some("mq-worker")),
            ("CC", Some("the broker")),
            ("x-first-death-queue", Some("the broker")),
            ("x-request-id", None),
            ("Id", None),
            ("cc", None),
            ("tenant", None),
        ] {
            assert_eq!(owner(name), whose, "{name}");
        }
        assert!(CELERY.is_sorted());
    }

    #[test]
    fn an_empty_text_is_no_id() {
        let headers: Headers = [("task".into(), "t".into()), ("id".into(), "".into())].into_iter().collect();
        assert_eq!((headers.task(), headers.id()), (Some("t"), None));
    }
}
