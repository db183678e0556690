//! `mq-worker tasks`: lists the tasks of the crate.

use serde::Serialize;

use super::arguments::{CommonArguments, TasksArguments};
use super::exit::Outcome;
use super::{output, settings, shim};
use crate::app::App;
use crate::routing::router::Wanted;
use crate::task::{Registry, TaskEntry};

pub(super) fn run(arguments: &TasksArguments, common: &CommonArguments) -> Outcome {
    let config = settings::load_at(common, arguments.package.app.as_deref()).map(|loaded| loaded.config);
    if Registry::collect()?.is_empty() {
        return shim::exec_worker(&arguments.package, config);
    }
    let app = settings::application(config?)?;
    let tasks: Vec<Shown<'_>> = app.registry().iter().map(|task| Shown::new(&app, task)).collect();
    if arguments.json {
        return output::json(&tasks);
    }
    let rows = tasks.iter().map(|task| {
        let call = format!("{}({})", task.name, output::one_line(task.signature, 60));
        vec![call, task.queue.clone(), summary(task.doc)]
    });
    output::table(&["task", "queue", "what it does"], rows.collect(), usize::MAX)
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    queue: String,
    parameters: &'a [&'a str],
    signature: &'a str,
    doc: &'a str,
    max_retries: u32,
    file: &'a str,
    line: u32,
}

impl<'a> Shown<'a> {
    fn new(app: &App, task: &'a TaskEntry) -> Self {
        Self {
            name: task.name,
            queue: queue(app, task),
            parameters: task.parameters,
            signature: task.signature,
            doc: task.doc.trim(),
            max_retries: task.options.max_retries,
            file: task.file,
            line: task.line,
        }
    }
}

/// Returns the queue for calls of a task, or the exchange and routing key, from which bindings choose the queue.
pub(super) fn queue(app: &App, task: &TaskEntry) -> String {
    if task.options.broadcast {
        return "(broadcast)".into();
    }
    let route = app.router().route(task.name, task.options.queue, Wanted::default());
    route.queue.unwrap_or_else(|| format!("{}/{}", route.exchange, route.routing_key))
}

/// The first sentence or line of a doc comment.
pub(super) fn summary(doc: &str) -> String {
    let paragraph = doc.trim().split("\n\n").next().unwrap_or_default();
    output::one_line(paragraph, 72)
}
