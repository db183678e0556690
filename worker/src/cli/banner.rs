//! The start-up banner of a worker: its name, broker, queues and tasks.

use std::fmt::Write;

use super::arguments::LogFormat;
use super::{output, tasks};
use crate::app::{App, Prefetch};
use crate::task::TaskEntry;
use crate::tracing::info;

/// Shows the banner: as text for people, as one log event for programs.
pub(super) fn show(app: &App, queues: &[String], format: LogFormat) {
    match format {
        LogFormat::Text => output::note(text(app, queues)),
        LogFormat::Json => event(app, queues),
    }
}

fn event(app: &App, queues: &[String]) {
    let config = app.config();
    let names: Vec<&str> = app.registry().iter().map(|task| task.name).collect();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        worker = app.worker_name(),
        broker = %config.broker_url,
        result_backend = %config.effective_result_backend(),
        concurrency = config.worker.concurrency,
        prefetch = %prefetch(app),
        queues = queues.join(","),
        tasks = names.join(","),
        "starting"
    );
}

fn text(app: &App, queues: &[String]) -> String {
    let config = app.config();
    let concurrency = match config.worker.prefetch {
        Prefetch::Slots => config.worker.concurrency.to_string(),
        prefetch => {
            let concurrency = config.worker.concurrency;
            format!("{concurrency} (prefetch {})", prefetch.shown(concurrency))
        }
    };
    let mut text = format!("\n mq-worker {}   {}\n\n", env!("CARGO_PKG_VERSION"), app.worker_name());
    for (name, value) in [
        ("broker", config.broker_url.to_string()),
        ("results", config.effective_result_backend().to_string()),
        ("concurrency", concurrency),
        ("queues", queues.join(", ")),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "   {name:<13}{value}");
    }
    text.push_str("\n   tasks\n");
    let entries: Vec<(&TaskEntry, String)> =
        app.registry().iter().map(|task| (task, tasks::queue(app, task))).collect();
    let names = width(entries.iter().map(|(task, _)| task.name));
    let places = width(entries.iter().map(|(_, queue)| queue.as_str()));
    for (task, queue) in &entries {
        let elsewhere = if is_worked_on(task, queue, queues) { "" } else { "(not consumed here) " };
        let doc = tasks::summary(task.doc);
        let line = format!("     {:<names$}   {queue:<places$}   {elsewhere}{doc}", task.name);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for queue in queues.iter().filter(|queue| entries.iter().all(|(task, place)| !is_for(task, place, queue)))
    {
        let _ = writeln!(text, "\n   note: none of these tasks has the queue `{queue}`");
    }
    text
}

fn is_worked_on(task: &TaskEntry, place: &str, queues: &[String]) -> bool {
    task.options.broadcast || queues.iter().any(|queue| is_for(task, place, queue))
}

fn is_for(task: &TaskEntry, place: &str, queue: &str) -> bool {
    place == queue || task.options.queue == Some(queue)
}

fn prefetch(app: &App) -> String {
    let worker = &app.config().worker;
    worker.prefetch.shown(worker.concurrency)
}

fn width<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    texts.map(|text| text.chars().count()).max().unwrap_or_default()
}
