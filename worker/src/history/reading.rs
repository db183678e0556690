//! Turns an [`Event`] into what the history keeps of it.

use chrono::{DateTime, Utc};

use super::occurrence::{Kind, Occurrence};
use super::record::Entry;
use super::reported::Reported;
use super::workers::{WorkerDetails, WorkerReport};
use crate::events::{Event, EventKind};
use crate::message::headers::parse_time;

impl Entry {
    /// Converts an event to the entry that the history keeps; `None` if it keeps none.
    pub fn from_event(event: &Event) -> Option<Self> {
        let at = moment(event.timestamp)?;
        if let EventKind::WorkerOnline | EventKind::WorkerHeartbeat | EventKind::WorkerOffline = event.kind {
            return (!event.hostname.is_empty()).then(|| Self::Worker(Box::new(report(event, at))));
        }
        let kind = match event.kind {
            EventKind::TaskSent => Kind::Sent,
            EventKind::TaskReceived => Kind::Received,
            EventKind::TaskStarted => Kind::Started,
            EventKind::TaskSucceeded => Kind::Succeeded,
            EventKind::TaskFailed => Kind::Failed,
            EventKind::TaskRetried => Kind::Retried,
            EventKind::TaskRevoked => Kind::Revoked,
            EventKind::TaskRejected => Kind::Rejected,
            EventKind::Reported => Kind::Reported,
            EventKind::DeadLettered => Kind::DeadLettered,
            EventKind::Delayed => Kind::Delayed,
            EventKind::Quarantined => Kind::Quarantined,
            EventKind::Requeued | EventKind::Crashed => Kind::Requeued,
            _ => return None,
        };
        let id = event.uuid.as_ref().filter(|id| !id.is_empty())?;
        let reason = event.reason.clone().or_else(|| match event.kind {
            EventKind::TaskRevoked if event.expired == Some(true) => Some("expired".into()),
            EventKind::TaskRevoked if event.terminated == Some(true) => Some("terminated".into()),
            EventKind::Crashed => Some("a worker may have died with it".into()),
            _ => None,
        });
        Some(Self::Call(Box::new(Occurrence {
            name: event.name.clone(),
            worker: (kind != Kind::Sent).then(|| event.hostname.clone()),
            // The event of a dead letter names the dead-letter queue.
            queue: event.queue.clone().filter(|_| kind != Kind::DeadLettered),
            args: event.args.clone(),
            kwargs: event.kwargs.clone(),
            result: event.result.clone(),
            error: event.exception.clone(),
            traceback: event.traceback.clone(),
            reason,
            retries: event.retries.and_then(|retries| u32::try_from(retries).ok()),
            root: event.root_id.clone(),
            parent: event.parent_id.clone(),
            eta: event.eta.as_deref().and_then(parse_time).or_else(|| {
                let delay = event.delay.filter(|_| kind == Kind::Delayed || kind == Kind::Retried)?;
                moment(event.timestamp + delay)
            }),
            expires: event.expires.as_deref().and_then(parse_time),
            reported: event.state.clone().filter(|_| kind == Kind::Reported).map(|state| Reported {
                state,
                at,
                current: event.current,
                total: event.total,
                description: event.description.clone(),
            }),
            runtime: event.runtime,
            wait: event.wait,
            ..Occurrence::new(kind, id, at)
        })))
    }
}

fn report(event: &Event, at: DateTime<Utc>) -> WorkerReport {
    WorkerReport {
        name: event.hostname.clone(),
        at,
        is_online: event.kind != EventKind::WorkerOffline,
        details: WorkerDetails {
            pid: Some(event.pid.into()).filter(|pid| *pid > 0),
            freq: event.freq,
            active: event.active,
            processed: event.processed,
            loadavg: event.loadavg.map(Vec::from),
            software: event.sw_ident.clone(),
            version: event.sw_ver.clone(),
            system: event.sw_sys.clone(),
        },
    }
}

/// Reads seconds since 1970. An event without a valid time is not kept.
fn moment(seconds: f64) -> Option<DateTime<Utc>> {
    let micros = seconds * 1e6;
    (micros.is_finite() && micros > 0.0 && micros < 1e18)
        .then(|| DateTime::from_timestamp_micros(micros as i64))
        .flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(event: serde_json::Value) -> Option<Entry> {
        let events = Event::read(event.to_string().as_bytes()).expect("an event");
        Entry::from_event(&events[0])
    }

    #[test]
    fn celery_s_events_are_kept() {
        let entry = read(json!({
            "type": "task-received", "hostname": "w@h", "timestamp": 1795330431.49129, "pid": 7, "uuid": "a",
            "name": "proj.add", "args": "(2, 3)", "kwargs": "{}", "retries": 1, "root_id": "r", "parent_id": null,
            "eta": "2030-01-01T00:00:00+00:00", "expires": null,
        }));
        let Some(Entry::Call(call)) = entry else { panic!("a call: {entry:?}") };
        assert_eq!((call.kind, call.id.as_str(), call.worker.as_deref()), (Kind::Received, "a", Some("w@h")));
        assert_eq!(
            (call.name.as_deref(), call.args.as_deref(), call.retries),
            (Some("proj.add"), Some("(2, 3)"), Some(1))
        );
        assert_eq!((call.at.timestamp_micros(), call.root.as_deref()), (1_795_330_431_491_290, Some("r")));
        assert!(call.eta.is_some() && call.expires.is_none());
        let entry = read(json!({
            "type": "worker-heartbeat", "hostname": "w@h", "timestamp": 1795330431.5, "pid": 7, "freq": 2.0,
            "active": 3, "loadavg": [1.5, 0.5, 0.25], "sw_ident": "py-celery",
        }));
        let Some(Entry::Worker(report)) = entry else { panic!("a worker: {entry:?}") };
        assert_eq!((report.is_online, report.details.active), (true, Some(3)));
    }

    #[test]
    fn what_a_call_says_is_kept() {
        let entry = read(json!({
            "type": "mq-reported", "hostname": "w@h", "timestamp": 1795330431.5, "uuid": "a", "state": "PROGRESS",
            "current": 3, "total": 12, "description": "resizing",
        }));
        let Some(Entry::Call(call)) = entry else { panic!("a call: {entry:?}") };
        assert_eq!(call.reported.expect("kept").to_string(), "3 of 12 (25 %): resizing");
        let entry = read(json!({
            "type": "mq-reported", "timestamp": 1795330431.5, "uuid": "a", "state": "UPLOADING", "description": "{'n': 1}",
        }));
        let Some(Entry::Call(call)) = entry else { panic!("a call: {entry:?}") };
        assert_eq!(call.reported.expect("kept").to_string(), "UPLOADING: {'n': 1}");
    }

    #[test]
    fn what_is_no_event_of_a_call_is_left_out() {
        for event in [
            json!({"type": "task-sent", "timestamp": 1795330431.5}),
            json!({"type": "task-sent", "uuid": "a"}),
            json!({"type": "task-sent", "uuid": "a", "timestamp": 1e300}),
            json!({"type": "task-progress", "uuid": "a", "timestamp": 1795330431.5}),
            json!({"type": "worker-heartbeat", "timestamp": 1795330431.5}),
        ] {
            assert_eq!(read(event.clone()), None, "{event}");
        }
    }
}
