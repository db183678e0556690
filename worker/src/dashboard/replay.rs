//! Runs calls again: from their dead letters, else as new calls with the arguments kept in the history.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::call::may_have_letter;
use super::send::send;
use super::state::State;
use crate::admin::dead::search::LetterFilter;
use crate::admin::dead::survey;
use crate::admin::failure::{Failure, Outcome};
use crate::history::{Job, json_of_literal};
use crate::show::counted;

/// Runs calls again and reports how many were replayed.
pub(crate) async fn replay(state: &State, ids: &[String]) -> Outcome<String> {
    let (mut letters, mut calls) = (BTreeMap::<String, Vec<Job>>::new(), Vec::new());
    let mut done = Done::default();
    for id in ids {
        match state.history.job(id).await? {
            None => done.problems.push(format!("the history knows no call {id}")),
            Some(job) => match job.queue.clone().filter(|_| may_have_letter(job.state)) {
                Some(queue) => letters.entry(queue).or_default().push(job),
                None => calls.push(job),
            },
        }
    }
    // Walk over each dead-letter queue once, however many of its letters are selected.
    for (queue, jobs) in letters {
        calls.extend(done.send_back(state, queue, jobs).await);
    }
    for job in calls {
        match send_again(state, &job).await {
            Ok(()) => done.replayed += 1,
            Err(failure) => done.problems.push(format!("{}: {}", job.id, failure.into_parts().1)),
        }
    }
    done.outcome()
}

#[derive(Default)]
struct Done {
    replayed: u64,
    problems: Vec<String>,
}

impl Done {
    /// Sends the dead letters of calls back to their queue. Returns the calls that have none.
    async fn send_back(&mut self, state: &State, queue: String, jobs: Vec<Job>) -> Vec<Job> {
        // Without a dead-letter queue there is no letter.
        let dead = crate::admin::dead::search::dead_queue(&queue);
        if !crate::admin::queue(&state.app, &dead).await.is_ok_and(|(_, info)| info.ready > 0) {
            return jobs;
        }
        let ids: HashSet<String> = jobs.iter().map(|job| job.id.clone()).collect();
        let which = LetterFilter { queue: queue.clone(), ids: Some(ids), ..LetterFilter::default() };
        match survey::replay(&state.app, which, &Arc::default()).await {
            Ok(found) => {
                self.replayed += found.replayed;
                if found.kept > 0 {
                    self.problems.push(format!(
                        "{} of `{queue}`: the task is unique, and another call of it waits or runs",
                        counted(found.kept, "call")
                    ));
                }
                jobs.into_iter().filter(|job| !found.found.contains(&job.id)).collect()
            }
            Err(failure) => {
                self.problems.push(format!("`{queue}`: {}", failure.into_parts().1));
                Vec::new()
            }
        }
    }

    fn outcome(self) -> Outcome<String> {
        let text = format!("{} replayed.", counted(self.replayed, "call"));
        match self.problems.as_slice() {
            [] => Ok(text),
            [only] if self.replayed == 0 => Err(Failure::failed(only)),
            [first, ..] => Err(Failure::failed(format!(
                "{text} Not replayed: {}, the first of them {first}",
                self.problems.len()
            ))),
        }
    }
}

/// Sends a new call with the same arguments.
async fn send_again(state: &State, job: &Job) -> Outcome {
    let args = job.args.as_deref().and_then(json_of_literal);
    let kwargs = job.kwargs.as_deref().map_or(Some("{}".into()), json_of_literal);
    let (Some(args), Some(kwargs), Some(name)) = (args, kwargs, &job.name) else {
        let why =
            "its arguments are not known in full: open it, and send it with the arguments that you enter";
        return Err(Failure::failed(why));
    };
    send(&state.app, name, Some(&args), Some(&kwargs), job.queue.as_deref()).await.map(drop)
}
