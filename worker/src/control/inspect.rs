//! Workers as they describe themselves, ours and Celery's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Control, Reply};
use crate::connection::background;
use crate::error::Result;

/// A running worker at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct WorkerInfo {
    /// The node's name.
    pub name: String,
    /// The process on its machine.
    pub pid: Option<u64>,
    /// The queues that it consumes from.
    pub queues: Vec<String>,
    /// How many tasks it runs at once.
    pub concurrency: Option<u64>,
    /// Its prefetch count.
    pub prefetch: Option<u64>,
    /// True if it adjusts the prefetch count itself, to how long its tasks take.
    pub prefetch_auto: bool,
    /// How many tasks it is running.
    pub running: Option<u64>,
    /// How many of its slots are lost to plain functions that could not be stopped, until those return.
    pub lost_slots: u64,
    /// How many finished tasks wait for the broker or the result backend to accept their outcome.
    pub settling: u64,
    /// For how long the slowest of those has waited, in whole seconds.
    pub settling_seconds: Option<u64>,
    /// The broker or result backend that the slowest of those waits for, without its password.
    pub settling_waits_for: Option<String>,
    /// How many tasks it has started so far.
    pub started: Option<u64>,
    /// How long it has been running, in whole seconds.
    pub uptime: Option<u64>,
    /// True if it was told to stop and is finishing its running tasks.
    pub stopping: bool,
}

/// What the workers that replied know about some calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundCalls {
    /// How many workers replied.
    pub workers: usize,
    /// The calls that they run, by id.
    pub running: BTreeMap<String, Running>,
}

/// A call that a worker runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Running {
    /// The worker's name.
    pub worker: String,
    /// The task's name.
    pub task: String,
    /// When it started, in seconds since 1970, if the worker reports it.
    pub since: Option<f64>,
}

impl Control {
    /// Asks which of these calls are running, and where. It takes the whole timeout, unless all of them are found earlier.
    ///
    /// # Errors
    /// A broker that cannot be reached or refuses us. It is not an error if no worker replies.
    pub async fn find(&self, ids: &[String]) -> Result<FoundCalls> {
        let arguments = Map::from_iter([("ids".to_owned(), Value::from(ids))]);
        let all_found = |replies: &[Reply]| {
            let found = |id: &String| replies.iter().any(|reply| running(reply, id).is_some());
            !ids.is_empty() && ids.iter().all(found)
        };
        let replies = self.ask_until("query_task", arguments, all_found).await?;
        let found = |id: &String| {
            replies.iter().find_map(|reply| running(reply, id)).map(|running| (id.clone(), running))
        };
        Ok(FoundCalls { workers: replies.len(), running: ids.iter().filter_map(found).collect() })
    }

    /// The workers that reply, by name. It takes the whole timeout, since their number is not known.
    ///
    /// # Errors
    /// A broker that cannot be reached or refuses us. It is not an error if no worker replies.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let none = Map::new;
        // All three at once: Celery's workers spread over three replies what ours report in one.
        let (stats, queues, active) = futures_util::future::try_join3(
            self.ask("stats", none()),
            self.ask("active_queues", none()),
            self.ask("active", none()),
        )
        .await?;
        let mut workers: Vec<WorkerInfo> =
            stats.iter().map(|stats| describe(stats, &queues, &active)).collect();
        workers.sort();
        Ok(workers)
    }

    /// Waits until these workers are gone, and returns those that are still running when the time is up. A worker
    /// that was restarted under the same name counts as another one.
    ///
    /// # Errors
    /// A broker that cannot be reached or refuses us.
    pub async fn wait_until_gone(
        &self,
        workers: &[WorkerInfo],
        limit: Option<Duration>,
    ) -> Result<Vec<WorkerInfo>> {
        let deadline = limit.and_then(|limit| std::time::Instant::now().checked_add(limit));
        let mut left = workers.to_vec();
        while !left.is_empty() {
            let replies = self.to(left.iter().map(|worker| &worker.name)).ask("stats", Map::new()).await?;
            let alive: Vec<WorkerInfo> = replies.iter().map(|reply| describe(reply, &[], &[])).collect();
            left.retain(|one| alive.iter().any(|other| one.name == other.name && one.pid == other.pid));
            if left.is_empty() || deadline.is_some_and(|deadline| deadline <= std::time::Instant::now()) {
                break;
            }
            background::sleep(Duration::from_millis(200)).await?;
        }
        Ok(left)
    }
}

/// The call in a reply to `query_task`, if that worker runs it: `{id: ["active", {…}]}`. Calls that Python's workers have
/// only reserved are still waiting.
fn running(reply: &Reply, id: &str) -> Option<Running> {
    let found = reply.value.get(id)?;
    (found.get(0)?.as_str()? == "active").then(|| {
        let info = found.get(1);
        Running {
            worker: reply.node.clone(),
            task: info.and_then(|info| info.get("name")?.as_str()).unwrap_or_default().to_owned(),
            since: info.and_then(|info| info.get("time_start")?.as_f64()),
        }
    })
}

pub(crate) fn describe(stats: &Reply, queues: &[Reply], active: &[Reply]) -> WorkerInfo {
    let number = |key: &str| stats.value.get(key).and_then(Value::as_u64);
    let of_node = |replies: &'_ [Reply]| -> Option<Vec<Value>> {
        let reply = replies.iter().find(|reply| reply.node == stats.node)?;
        reply.value.as_array().cloned()
    };
    let own_queues = stats.value.get("queues").and_then(Value::as_array).cloned();
    let consumed = own_queues.or_else(|| of_node(queues)).unwrap_or_default();
    let name = |queue: &Value| queue.as_str().or_else(|| queue.get("name")?.as_str()).map(ToOwned::to_owned);
    let total = stats.value.get("total").and_then(Value::as_object);
    let pool = stats.value.get("pool");
    WorkerInfo {
        name: stats.node.clone(),
        pid: number("pid"),
        queues: consumed.iter().filter_map(name).collect(),
        concurrency: pool.and_then(|pool| pool.get("max-concurrency")?.as_u64()),
        prefetch: number("prefetch_count"),
        prefetch_auto: stats.value.get("prefetch").and_then(Value::as_str) == Some("auto"),
        running: number("running").or_else(|| of_node(active).map(|tasks| tasks.len() as u64)),
        lost_slots: number("lost_slots").unwrap_or_default(),
        settling: number("settling").unwrap_or_default(),
        settling_seconds: number("settling_seconds"),
        settling_waits_for: stats
            .value
            .get("settling_waits_for")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .map(ToOwned::to_owned),
        started: total.map(|total| total.values().filter_map(Value::as_u64).sum()),
        uptime: number("uptime"),
        stopping: stats.value.get("stopping").and_then(Value::as_bool).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply(value: Value) -> Reply {
        Reply { node: "w@h".into(), value }
    }

    #[test]
    fn celery_s_worker_is_described_by_three_answers() {
        let stats = reply(json!({
            "total": {"proj.add": 3, "proj.mul": 2}, "pid": 7, "uptime": 12, "clock": "36",
            "pool": {"max-concurrency": 2, "processes": [8, 9]}, "prefetch_count": 8,
        }));
        let queues = [reply(json!([{"name": "celery", "durable": true}, {"name": "mail"}]))];
        let active = [reply(json!([{"id": "a"}]))];
        assert_eq!(
            describe(&stats, &queues, &active),
            WorkerInfo {
                name: "w@h".into(),
                pid: Some(7),
                queues: vec!["celery".into(), "mail".into()],
                concurrency: Some(2),
                prefetch: Some(8),
                prefetch_auto: false,
                running: Some(1),
                lost_slots: 0,
                settling: 0,
                settling_seconds: None,
                settling_waits_for: None,
                started: Some(5),
                uptime: Some(12),
                stopping: false,
            }
        );
    }

    #[test]
    fn a_running_call_is_told_from_one_that_is_reserved() {
        let reply = reply(json!({
            "a": ["active", {"name": "add", "time_start": 5.5}], "b": ["reserved", {}], "c": "nonsense",
        }));
        let expected = Running { worker: "w@h".into(), task: "add".into(), since: Some(5.5) };
        assert_eq!(running(&reply, "a"), Some(expected));
        assert_eq!((running(&reply, "b"), running(&reply, "c"), running(&reply, "d")), (None, None, None));
    }

    #[test]
    fn our_worker_tells_all_at_once_and_nonsense_is_harmless() {
        let stats = reply(json!({"running": 4, "queues": ["a"], "stopping": true}));
        let info = describe(&stats, &[], &[]);
        assert_eq!((info.running, info.queues, info.stopping), (Some(4), vec!["a".to_owned()], true));
        for nonsense in [json!(null), json!({"error": "x"}), json!({"pool": 3, "total": [], "pid": -1})] {
            assert_eq!(describe(&reply(nonsense), &[], &[]).queues, Vec::<String>::new());
        }
    }
}
