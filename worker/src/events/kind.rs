//! The kinds of events, under their names on the wire.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What an event reports.
        ///
        /// The names that begin with `task-` and `worker-` are Celery's. Those that begin with `mq-` report what Celery has
        /// no event for; its tools ignore them.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[$doc])* $kind,)*
            /// Any other event, such as one that a user's program sends through Celery.
            Other(String),
        }

        impl EventKind {
            /// The name on the wire.
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$kind => $name,)*
                    Self::Other(name) => name,
                }
            }
        }

        impl From<&str> for EventKind {
            fn from(name: &str) -> Self {
                match name {
                    $($name => Self::$kind,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        #[cfg(test)]
        const KNOWN: &[EventKind] = &[$(EventKind::$kind),*];
    };
}

kinds! {
    /// A producer published a call. Only with the setting `sent_events`.
    TaskSent = "task-sent",
    /// A worker received a call and is about to run it.
    TaskReceived = "task-received",
    /// It runs.
    TaskStarted = "task-started",
    /// It returned a value.
    TaskSucceeded = "task-succeeded",
    /// It failed permanently.
    TaskFailed = "task-failed",
    /// A worker refused the message. Only Celery's workers report it.
    TaskRejected = "task-rejected",
    /// It was not run, or not to its end: it was revoked, expired or terminated.
    TaskRevoked = "task-revoked",
    /// It failed and runs again after a delay.
    TaskRetried = "task-retried",
    /// A worker started.
    WorkerOnline = "worker-online",
    /// A worker is alive.
    #[default]
    WorkerHeartbeat = "worker-heartbeat",
    /// A worker stopped.
    WorkerOffline = "worker-offline",
    /// It reported its progress or a state of its own.
    Reported = "mq-reported",
    /// A message moved to a dead-letter queue. `task-failed` reports the same to Celery's tools.
    DeadLettered = "mq-dead-lettered",
    /// A message waits in the broker: it was delivered before its time or before its turn.
    Delayed = "mq-delayed",
    /// A suspected poison message starts its last run, alone in a separate process.
    Quarantined = "mq-quarantined",
    /// A worker that stops returned the message to its queue, with no attempt spent.
    Requeued = "mq-requeued",
    /// A worker may have died with the message: its crash count was raised.
    Crashed = "mq-crashed",
    /// A message was delivered again after its call had succeeded, and was not run again.
    Duplicate = "mq-duplicate",
}

impl EventKind {
    /// The routing key of a message with this one event: the name, with dots.
    pub fn routing_key(&self) -> String {
        self.name().replace('-', ".")
    }

    /// True for an event that names a call in its `uuid`.
    pub fn is_of_call(&self) -> bool {
        self.name().starts_with("task-") || self.name().starts_with("mq-")
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_the_kind_that_it_was_written_from() {
        for kind in KNOWN {
            assert_eq!(&EventKind::from(kind.name()), kind);
        }
        assert_eq!(EventKind::from("app-custom").name(), "app-custom");
        assert_eq!(EventKind::WorkerHeartbeat.routing_key(), "worker.heartbeat");
    }

    #[test]
    fn celery_s_tools_ignore_our_own() {
        // Celery's tools read the part before the first dash as a group, and know `task` and `worker`.
        let celery = ["sent", "received", "started", "succeeded", "failed", "rejected", "revoked", "retried"];
        for kind in KNOWN {
            let known = match kind.name().split_once('-') {
                Some(("task", rest)) => celery.contains(&rest),
                Some(("worker", rest)) => ["online", "heartbeat", "offline"].contains(&rest),
                Some(("mq", _)) => true,
                _ => false,
            };
            assert!(known, "{kind}");
        }
    }
}
