//! Which tasks the running workers have.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use strsim::damerau_levenshtein;

use super::{Control, Reply};
use crate::error::Result;

/// The prefix of tasks that Celery's workers have but do not list.
const BUILT_IN: &str = "celery.";

/// The tasks of the workers that replied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registered(BTreeSet<String>);

impl Control {
    /// Asks which tasks the running workers have; `None` if no worker replies. It takes the whole timeout, unless all
    /// of `tasks` are found earlier.
    ///
    /// # Errors
    /// A broker that cannot be reached or refuses us.
    pub(crate) async fn registered(&self, tasks: &BTreeSet<&str>) -> Result<Option<Registered>> {
        let all_found = |replies: &[Reply]| {
            Registered::of(replies).is_some_and(|found| tasks.iter().all(|task| found.has(task)))
        };
        let replies = self.ask_until("registered", Map::new(), all_found).await?;
        Ok(Registered::of(&replies))
    }
}

impl Registered {
    /// From the replies to `registered`; `None` without a reply.
    pub(crate) fn of(replies: &[Reply]) -> Option<Self> {
        let answers = replies.iter().filter(|reply| reply.value.is_array());
        let found: Vec<&Reply> = answers.collect();
        if found.is_empty() {
            return None;
        }
        Some(Self(found.into_iter().flat_map(names).map(str::to_owned).collect()))
    }

    /// True if a worker has the task.
    pub(crate) fn has(&self, task: &str) -> bool {
        self.0.contains(task) || task.starts_with(BUILT_IN)
    }

    /// The complaint that no worker has the task; `None` if one has it.
    pub(crate) fn complaint(&self, task: &str) -> Option<String> {
        if self.has(task) {
            return None;
        }
        let near = self.0.iter().map(|known| (damerau_levenshtein(task, known), known)).min();
        let near = near.filter(|(distance, _)| *distance <= (task.len() / 3).max(1));
        let remedy = match near {
            Some((_, near)) => format!("; did you mean `{near}`?"),
            None => {
                ": until one has it, calls wait in their queue or are dead-lettered by its workers".into()
            }
        };
        Some(format!("no running worker has task `{task}`{remedy}"))
    }
}

/// The names in one reply: a list of `name` or `name [queue=email]`.
pub(crate) fn names(reply: &Reply) -> impl Iterator<Item = &str> {
    let lines = reply.value.as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.filter_map(|line| line.split(" [").next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_task_is_known_if_one_worker_has_it() {
        let reply = |value| Reply { node: "w@h".into(), value };
        assert_eq!(Registered::of(&[]), None);
        assert_eq!(Registered::of(&[reply(json!({"error": "x"}))]), None);
        let replies =
            [reply(json!(["add"])), reply(json!(["reports.build [queue=math]", 7])), reply(json!(null))];
        let found = Registered::of(&replies).expect("two answers");
        for (task, complaint) in [
            ("add", None),
            ("reports.build", None),
            ("celery.backend_cleanup", None),
            (
                "reports.biuld",
                Some("no running worker has task `reports.biuld`; did you mean `reports.build`?"),
            ),
            (
                "other",
                Some(
                    "no running worker has task `other`: until one has it, calls wait in their queue or are \
                     dead-lettered by its workers",
                ),
            ),
        ] {
            assert_eq!(found.complaint(task).as_deref(), complaint);
        }
        assert!(Registered::of(&[reply(json!([]))]).expect("an answer").complaint("add").is_some());
    }
}
