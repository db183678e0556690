//! Detects two workers with the same name: every command to one reaches both, so the second warns when it starts.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::broker::Broker;
use crate::control::{Control, Reply};
use crate::tracing;

/// Warns if another worker answers to this name. Called once our own mailbox exists, so that of two workers that start at
/// the same time at least one sees the other.
pub(super) async fn warn(name: &str, broker: Arc<dyn Broker>) {
    // Two answers are enough: our own and another one.
    let control = Control::new(broker).to([name, name]);
    match control.ask("stats", Map::new()).await {
        Ok(replies) => {
            if let Some(pid) = other(&replies, std::process::id()) {
                tracing::warn!(
                    worker = name,
                    pid,
                    "another worker has this name: `mq-worker stop` and other commands reach both; --hostname NAME@%h \
                     gives this one its own"
                );
            }
        }
        Err(error) => {
            tracing::debug!(error = format!("{error:#}"), "cannot see whether another worker has this name");
        }
    }
}

/// The process id of another worker among these answers. One that is stopping does not count: it makes room for its
/// successor.
fn other(replies: &[Reply], own: u32) -> Option<u64> {
    let stays = |reply: &&Reply| reply.value.get("stopping").and_then(Value::as_bool) != Some(true);
    let mut pids: Vec<u64> = replies
        .iter()
        .filter(stays)
        .map(|reply| reply.value.get("pid").and_then(Value::as_u64).unwrap_or(0))
        .collect();
    if let Some(index) = pids.iter().position(|pid| *pid == u64::from(own)) {
        pids.swap_remove(index);
    }
    pids.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_worker_of_the_name_is_told_from_ourselves() {
        let replies = |values: &[Value]| -> Vec<Reply> {
            values.iter().map(|value| Reply { node: "w@h".into(), value: value.clone() }).collect()
        };
        let (own, neighbour) = (json!({"pid": 7}), json!({"pid": 8, "stopping": false}));
        assert_eq!(other(&replies(std::slice::from_ref(&own)), 7), None);
        assert_eq!(other(&replies(&[own.clone(), neighbour.clone()]), 7), Some(8));
        assert_eq!(other(&replies(&[neighbour]), 7), Some(8));
        assert_eq!(other(&replies(&[own.clone(), json!({"pid": 8, "stopping": true})]), 7), None);
        assert_eq!(other(&replies(&[own.clone(), own]), 7), Some(7), "two in one process");
    }
}
