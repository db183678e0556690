//! What a worker answers to each command, in the words of Celery 5.7.

use serde_json::{Map, Value, json};

use super::{Node, describe};
use crate::app::App;
use crate::app::pause::announced;
use crate::broker::{Note, Register};
use crate::control::Command;
use crate::error::Result;
use crate::events::EventKind;
use crate::task::{AckMode, TaskEntry};
use crate::tracing;

impl Node {
    /// Does what a command asks for. `None` when there is no reply to it, even if one is wanted.
    pub(super) fn perform(&self, command: &Command) -> Option<Value> {
        let arguments = &command.arguments;
        Some(match command.method.as_str() {
            "ping" => {
                if let Some((what, until)) = announced(arguments) {
                    self.pauses.set(what, until);
                }
                json!({"ok": "pong"})
            }
            "stats" => self.stats(),
            "registered" | "dump_tasks" => self.registered(arguments),
            "active" | "dump_active" => self.active(),
            "active_queues" => {
                Value::Array(self.queues.iter().map(|queue| describe::queue(&self.topology, queue)).collect())
            }
            // What waits, waits in the broker: nothing is held back here that could be listed.
            "reserved" | "dump_reserved" | "scheduled" | "dump_schedule" => json!([]),
            "revoked" | "dump_revoked" => json!(self.revocations.ids()),
            "revoke" => self.revoke("revoke", arguments, is_set(arguments, "terminate")),
            "terminate" => self.revoke("terminate", arguments, true),
            "revoke_by_stamped_headers" => refuse_stamps(),
            "query_task" => self.query_task(arguments),
            "conf" | "dump_conf" => describe::settings(self.app.config()),
            "report" => json!({"ok": self.report()}),
            "clock" => json!({"clock": self.clock.now()}),
            "heartbeat" => {
                self.heartbeat.report(EventKind::WorkerHeartbeat);
                Value::Null
            }
            "enable_events" => self.switch_events(true),
            "disable_events" => self.switch_events(false),
            "hello" => self.hello(arguments),
            "shutdown" => {
                tracing::info!("asked to stop by remote control");
                self.handle.stop();
                return None;
            }
            // Python's words, which its clients print.
            unknown => error("KeyError", unknown),
        })
    }

    fn stats(&self) -> Value {
        let slowest = self.settling.slowest();
        let worker = &self.app.config().worker;
        let total: Map<String, Value> =
            self.running.begun().map(|(name, count)| (name.to_owned(), count.into())).collect();
        json!({
            "total": total,
            "pid": std::process::id(),
            // A text, as Celery has it.
            "clock": self.clock.now().to_string(),
            "uptime": self.since.elapsed().as_secs(),
            "pool": {
                "implementation": "mq_worker::runtime",
                "max-concurrency": worker.concurrency,
                "processes": [std::process::id()],
                "max-tasks-per-child": "N/A",
                "put-guarded-by-semaphore": true,
                "timeouts": [0, 0],
                "writes": {},
            },
            "broker": describe::broker(&self.app.config().broker_url),
            "prefetch_count": self.prefetch,
            "rusage": describe::usage(),
            // Ours: so that one question is enough to show a worker at a glance.
            "running": self.running.count(),
            // Held by plain functions that passed their time limit.
            "lost_places": self.slots.lost(),
            // Done, and waiting for broker or backend to take the outcome.
            "settling": slowest.as_ref().map_or(0, |slowest| slowest.count),
            "settling_seconds": slowest.as_ref().map(|slowest| slowest.lasts.as_secs()),
            "queues": self.queues,
            "stopping": self.handle.is_stopping(),
            "sw_ident": "mq-worker",
            "sw_ver": env!("CARGO_PKG_VERSION"),
        })
    }

    fn active(&self) -> Value {
        // A reply has to fit into a message: of many tasks only the first are told with their arguments.
        const WITH_ARGUMENTS: usize = 1000;
        let tasks = self.running.list();
        let info = |(index, task)| describe::task(&self.name, task, index < WITH_ARGUMENTS);
        Value::Array(tasks.iter().enumerate().map(info).collect())
    }

    fn query_task(&self, arguments: &Map<String, Value>) -> Value {
        let Some(ids) = arguments.get("ids") else {
            return error("TypeError", "query_task() missing 1 required positional argument: 'ids'");
        };
        let wanted = |id: &str| match ids {
            Value::Array(ids) => ids.iter().any(|one| one.as_str() == Some(id)),
            one => one.as_str() == Some(id),
        };
        let found = self.running.list().into_iter().filter(|task| wanted(task.context.id())).map(|task| {
            (task.context.id().to_owned(), json!(["active", describe::task(&self.name, &task, true)]))
        });
        Value::Object(found.collect())
    }

    fn registered(&self, arguments: &Map<String, Value>) -> Value {
        let items: Vec<&str> = match arguments.get("taskinfoitems").and_then(Value::as_array) {
            Some(items) => items.iter().filter_map(Value::as_str).collect(),
            None => Vec::new(),
        };
        let line = |task: &TaskEntry| {
            let known = items.iter().filter_map(|item| Some(format!("{item}={}", fact(task, item)?)));
            let known: Vec<String> = known.collect();
            if known.is_empty() {
                task.name.to_owned()
            } else {
                format!("{} [{}]", task.name, known.join(" "))
            }
        };
        self.app.registry().iter().map(line).collect()
    }

    fn report(&self) -> String {
        let settings = describe::settings(self.app.config());
        let mut lines = vec![
            String::new(),
            format!("software -> mq-worker:{}", env!("CARGO_PKG_VERSION")),
            format!("platform -> system:{} arch:{}", std::env::consts::OS, std::env::consts::ARCH),
            format!("settings -> transport:{}", self.app.config().broker_url.scheme()),
            String::new(),
        ];
        if let Value::Object(settings) = settings {
            lines.extend(settings.iter().map(|(key, value)| format!("{key}: {value}")));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Revokes calls that wait here or run here, and notes them for workers to come. A signal that is named is not
    /// sent: a call is no process, and the one of an isolated call is killed.
    fn revoke(&self, method: &str, arguments: &Map<String, Value>, by_force: bool) -> Value {
        let ids: Vec<String> = match arguments.get("task_id") {
            Some(Value::String(id)) => vec![id.clone()],
            Some(Value::Array(ids)) => ids.iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect(),
            _ => {
                let missing = format!("{method}() missing 1 required positional argument: 'task_id'");
                return error("TypeError", &missing);
            }
        };
        let note_of = |id: &String| Note { by_force, ..Note::new(id, Register::Revoked.longest()) };
        let notes: Vec<Note> = ids.iter().map(note_of).collect();
        self.revocations.add(notes.iter().cloned());
        let mut running = Vec::new();
        for task in self.running.list().iter().filter(|task| ids.iter().any(|id| id == task.context.id())) {
            self.revocations.tell(&task.context);
            running.push(task.context.id().to_owned());
        }
        let told = ids.join(", ");
        tracing::info!(ids = told, terminate = by_force, "revoked by remote control");
        // Python's clients tell those who run now, and nobody else.
        if !is_set(arguments, "noted") {
            let app = self.app.clone();
            tokio::spawn(async move {
                if let Err(error) = write_down(&app, &notes).await {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "workers that start later will not know about this revocation"
                    );
                }
            });
        }
        json!({"ok": match (by_force, running.as_slice()) {
            (false, _) => format!("tasks {told} flagged as revoked"),
            (true, []) => "terminate: tasks unknown".to_owned(),
            (true, running) => format!("terminate: {}", running.join(", ")),
        }})
    }

    fn switch_events(&self, wanted: bool) -> Value {
        let was = self.heartbeat.reporter.set_wants_calls(wanted);
        json!({"ok": match (wanted, was) {
            (true, false) => "task events enabled",
            (true, true) => "task events already enabled",
            (false, true) => "task events disabled",
            (false, false) => "task events already disabled",
        }})
    }

    /// Another node says that it is there. It wants the ids that were revoked.
    fn hello(&self, arguments: &Map<String, Value>) -> Value {
        if arguments.get("from_node").and_then(Value::as_str) == Some(&self.name) {
            return Value::Null;
        }
        json!({"revoked": self.revocations.ids(), "clock": self.clock.forward()})
    }
}

fn is_set(arguments: &Map<String, Value>, name: &str) -> bool {
    arguments.get(name).and_then(Value::as_bool) == Some(true)
}

/// Stamps are kept with messages and handed on, and nothing is looked up by them. To stop only what happens to run would
/// let the caller believe that nothing of it comes any more.
fn refuse_stamps() -> Value {
    tracing::warn!("ignored a request to revoke tasks by their stamps: this worker revokes by task id only");
    error("NotImplementedError", "this worker revokes tasks by their ids only, not by stamped headers")
}

async fn write_down(app: &App, notes: &[Note]) -> Result<()> {
    let broker = app.broker().await?;
    for note in notes {
        broker.note(Register::Revoked, note).await?;
    }
    Ok(())
}

/// An error as Celery's workers answer it: the `repr` of a Python exception.
pub(super) fn error(kind: &str, text: &str) -> Value {
    let text: String = text.chars().take(200).collect();
    let quoted = if text.contains('\'') && !text.contains('"') {
        format!("\"{}\"", text.replace('\\', "\\\\"))
    } else {
        format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
    };
    json!({"error": format!("{kind}({quoted})")})
}

/// One fact about a task, under Celery's name for it, if there is anything to say.
fn fact(task: &TaskEntry, item: &str) -> Option<String> {
    let options = &task.options;
    let python = |yes: bool| String::from(if yes { "True" } else { "False" });
    match item {
        "max_retries" => Some(options.max_retries.to_string()),
        "time_limit" => options.time_limit.map(|limit| limit.as_secs_f64().to_string()),
        "soft_time_limit" => options.soft_time_limit.map(|limit| limit.as_secs_f64().to_string()),
        "acks_late" => Some(python(options.ack == AckMode::Late)),
        "ignore_result" => Some(python(options.ignore_result)),
        "priority" => options.priority.map(|priority| priority.to_string()),
        "expires" => options.expires.map(|expires| expires.as_secs_f64().to_string()),
        "queue" => options.queue.map(ToOwned::to_owned),
        "name" => Some(task.name.to_owned()),
        _ => None,
    }
}
