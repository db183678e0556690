//! `mq-worker top`: queues, workers and running tasks, live in the terminal.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use chrono::Utc;
use serde::Serialize;
use serde_json::{Map, Value};

use super::arguments::{CommonArguments, TopArguments};
use super::exit::{Failure, Outcome};
use super::{jobs, operate, output};
use crate::admin::inventory::{self, Queues};
use crate::app::App;
use crate::broker::QueueInfo;
use crate::control::{Control, Reply, WorkerInfo};
use crate::history::{Counts, GroupBy, History};
use crate::message::Progress;
use crate::show;

/// The most running tasks that are shown.
const MOST_RUNNING: usize = 20;
/// The time span that rates are computed over.
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Moves the cursor to the upper left corner and clears the screen.
const HOME: &str = "\x1b[H\x1b[J";

pub(super) fn run(arguments: TopArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { watch(&app, &arguments).await })
}

/// Everything on the screen.
#[derive(Serialize)]
struct Screen {
    at: String,
    broker: String,
    queues: Vec<QueueRow>,
    workers: Vec<WorkerInfo>,
    running: Vec<RunningRow>,
    /// Why something is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct QueueRow {
    #[serde(flatten)]
    info: QueueInfo,
    oldest_seconds: Option<f64>,
    /// What happened in the last five minutes, if there is a history.
    last_5_minutes: Option<Counts>,
}

#[derive(Serialize)]
struct RunningRow {
    id: String,
    task: String,
    worker: String,
    seconds: Option<f64>,
    /// The progress that it reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    reported: Option<Value>,
}

async fn watch(app: &App, arguments: &TopArguments) -> Outcome {
    let history = jobs::open_if_there(app.config(), &arguments.history).await?;
    let terminal = std::io::stdout().is_terminal();
    // Without a terminal there is nothing to redraw; JSON continues with one line per update.
    let is_once = arguments.once || (!terminal && !arguments.json);
    loop {
        let sight = look(app, history.as_ref()).await;
        match sight {
            Err(failure) if is_once => return Err(failure),
            // The broker may come back: show the problem and keep watching.
            Err(failure) => {
                let sight = Screen { problem: Some(failure.into_parts().1), ..Screen::empty(app) };
                print(&sight, arguments.json, terminal && !is_once)?;
            }
            Ok(sight) => print(&sight, arguments.json, terminal && !is_once)?,
        }
        if is_once {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(arguments.interval) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn print(sight: &Screen, json: bool, draws: bool) -> Outcome {
    if json {
        let line = serde_json::to_string(sight)
            .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
        return output::data(line);
    }
    let text = text(sight)?;
    output::data(if draws { format!("{HOME}{text}") } else { text })
}

impl Screen {
    fn empty(app: &App) -> Self {
        Self {
            at: show::time(Utc::now()).to_string(),
            broker: app.config().broker_url.to_string(),
            queues: Vec::new(),
            workers: Vec::new(),
            running: Vec::new(),
            problem: None,
        }
    }
}

async fn look(app: &App, history: Option<&History>) -> Outcome<Screen> {
    let control = Control::new(app.broker().await?);
    let totals = async {
        match history {
            Some(history) => history.totals(GroupBy::Queue, WINDOW).await.unwrap_or_default(),
            None => Vec::new(),
        }
    };
    let (workers, active, totals) =
        tokio::join!(control.workers(), control.ask("active", Map::new()), totals);
    let (workers, active) = (workers?, active?);
    let mut rates: HashMap<String, Counts> =
        totals.into_iter().map(|total| (total.name, total.counts)).collect();
    let consumed = workers.iter().flat_map(|worker| worker.queues.clone());
    let Queues { queues, .. } = inventory::queues(app, consumed.collect::<Vec<_>>()).await?;
    let queues = queues.found.into_iter().map(|found| QueueRow {
        last_5_minutes: rates.remove(&found.info.name),
        oldest_seconds: found.oldest.map(|oldest| oldest.as_secs_f64()),
        info: found.info,
    });
    Ok(Screen { queues: queues.collect(), running: running(&active), workers, ..Screen::empty(app) })
}

/// The running tasks of all workers, the longest first.
fn running(active: &[Reply]) -> Vec<RunningRow> {
    let now = Utc::now().timestamp_micros() as f64 / 1e6;
    let of_worker = |reply: &Reply| -> Vec<RunningRow> {
        let text =
            |task: &Value, key: &str| task.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let sight = |task: &Value| RunningRow {
            id: text(task, "id"),
            task: text(task, "name"),
            worker: reply.node.clone(),
            seconds: task.get("time_start").and_then(Value::as_f64).map(|start| (now - start).max(0.0)),
            reported: task.get("reported").cloned(),
        };
        reply.value.as_array().into_iter().flatten().map(sight).collect()
    };
    let mut running: Vec<RunningRow> = active.iter().flat_map(of_worker).collect();
    running.sort_by(|a, b| b.seconds.partial_cmp(&a.seconds).unwrap_or(std::cmp::Ordering::Equal));
    running
}

/// The progress that a task reports, as a short text.
fn said(reported: &Value) -> String {
    let text = |key: &str| reported.get(key).and_then(Value::as_str).unwrap_or_default();
    match Progress::from_meta(reported) {
        Some(progress) => progress.to_string(),
        None => format!("{} {}", text("state"), text("description")),
    }
}

fn text(sight: &Screen) -> Outcome<String> {
    let mut text = format!("{}  {}\n", sight.at, sight.broker);
    if let Some(problem) = &sight.problem {
        let _ = writeln!(text, "\n{problem}");
        return Ok(text);
    }
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
    let time = |seconds: Option<f64>| {
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        duration.map_or_else(
            || "-".into(),
            |time| show::duration(Duration::from_millis(time.as_millis() as u64)).to_string(),
        )
    };
    let queues = sight.queues.iter().map(|QueueRow { info, oldest_seconds, last_5_minutes: rates }| {
        let minute = |count: fn(&Counts) -> u64| {
            rates.as_ref().map_or_else(|| "-".into(), |rates| format!("{:.1}", count(rates) as f64 / 5.0))
        };
        vec![
            info.name.clone(),
            info.ready.to_string(),
            number(info.running),
            number(info.delayed),
            info.consumers.to_string(),
            time(*oldest_seconds),
            minute(|counts| counts.succeeded),
            minute(|counts| counts.failed + counts.retried),
            time(rates.as_ref().and_then(|rates| rates.run_p95)),
        ]
    });
    let header =
        ["queue", "ready", "running", "delayed", "consumers", "oldest", "done/min", "failed/min", "run p95"];
    let _ = writeln!(text, "\n{}", output::table_text(&header, queues.collect(), 1));
    let workers = sight.workers.iter().map(|worker| {
        let state = if worker.stopping { "stopping" } else { "working" };
        vec![
            worker.name.clone(),
            state.into(),
            output::one_line(&worker.queues.join(","), 40),
            format!("{}/{}", number(worker.running), number(worker.concurrency)),
            number(worker.started),
        ]
    });
    if sight.workers.is_empty() {
        text.push_str("\nno worker replied\n");
    } else {
        let header = ["worker", "state", "queues", "running", "started"];
        let _ = writeln!(text, "\n{}", output::table_text(&header, workers.collect(), 3));
    }
    if !sight.running.is_empty() {
        let rows = sight.running.iter().take(MOST_RUNNING).map(|one| {
            vec![
                output::one_line(&one.id, 40),
                output::one_line(&one.task, 40),
                one.worker.clone(),
                time(one.seconds),
                output::one_line(&one.reported.as_ref().map(said).unwrap_or_default(), 40),
            ]
        });
        let header = ["id", "task", "worker", "for", "progress"];
        let _ = writeln!(text, "\n{}", output::table_text(&header, rows.collect(), 3));
        if sight.running.len() > MOST_RUNNING {
            let _ = writeln!(text, "and {} more", sight.running.len() - MOST_RUNNING);
        }
    }
    text.truncate(text.trim_end().len());
    Ok(text)
}
