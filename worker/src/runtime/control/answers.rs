//! The worker's answer to each command, in the wording of Celery 5.7.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::changes::Resize;
use super::describe::ArgumentsAs;
use super::errors::{error, missing};
use super::{Node, describe};
use crate::app::App;
use crate::app::pause::announced;
use crate::broker::{Note, Register};
use crate::control::Command;
use crate::error::Result;
use crate::events::EventKind;
use crate::runtime::admission::reserved::Reserved;
use crate::runtime::admission::stamps;
use crate::task::{AckMode, TaskEntry};
use crate::tracing;

impl Node {
    /// Carries out a command. `None` when it has no reply, even if one is wanted.
    pub(super) fn perform(self: &Arc<Self>, command: &Command) -> Option<Value> {
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
            "active" | "dump_active" => self.active(match is_set(arguments, "safe") {
                true => ArgumentsAs::Text,
                false => ArgumentsAs::Values,
            }),
            "active_queues" => {
                let (queues, topology) = (self.sources.queues(), self.sources.topology());
                Value::Array(queues.iter().map(|queue| describe::queue(&topology, queue)).collect())
            }
            // Calls that wait for their ETA are in the broker.
            "scheduled" | "dump_schedule" => json!([]),
            "revoked" | "dump_revoked" => json!(self.revocations.ids()),
            "revoke" => self.revoke("revoke", arguments, is_set(arguments, "terminate")),
            "terminate" => self.revoke("terminate", arguments, true),
            "revoke_by_stamped_headers" => self.revoke_by_stamps(arguments),
            "conf" | "dump_conf" => describe::settings(self.app.config()),
            "report" => json!({"ok": self.report()}),
            "clock" => json!({"clock": self.clock.now()}),
            "heartbeat" => {
                self.heartbeat.report(EventKind::WorkerHeartbeat);
                Value::Null
            }
            "pool_grow" => self.resize(Resize::Grow, arguments),
            "pool_shrink" => self.resize(Resize::Shrink, arguments),
            // Celery's replies where these are turned off; tasks run in this process, which has no pool to restart.
            "pool_restart" => error("ValueError", "Pool restarts not enabled"),
            "autoscale" => error("ValueError", "Autoscale not enabled"),
            "cancel_consumer" => self.cancel_consumer(arguments),
            "time_limit" => self.time_limit(arguments),
            "rate_limit" => self.rate_limit(arguments),
            "memsample" => describe::memory(),
            "memdump" | "objgraph" | "election" => {
                error("NotImplementedError", &format!("{} is not supported by this worker", command.method))
            }
            "enable_events" => self.switch_events(true),
            "disable_events" => self.switch_events(false),
            "hello" => self.hello(arguments),
            "shutdown" => {
                tracing::info!("asked to stop by remote control");
                self.handle.stop();
                return None;
            }
            // Python's error, which its clients print.
            unknown => error("KeyError", unknown),
        })
    }

    fn stats(&self) -> Value {
        let slowest = self.settling.slowest();
        let total: Map<String, Value> =
            self.running.begun().map(|(name, count)| (name.to_owned(), count.into())).collect();
        json!({
            "total": total,
            "pid": std::process::id(),
            // A string, as in Celery.
            "clock": self.clock.now().to_string(),
            "uptime": self.since.elapsed().as_secs(),
            "pool": {
                "implementation": "mq_worker::runtime",
                "max-concurrency": self.slots.all(),
                "processes": [std::process::id()],
                "max-tasks-per-child": "N/A",
                "put-guarded-by-semaphore": true,
                "timeouts": [0, 0],
                "writes": {},
            },
            "broker": describe::broker(&self.app.config().broker_url),
            "prefetch_count": self.window.count(),
            // Our addition: the configured value; "auto" explains a count that changes.
            "prefetch": self.window.setting(),
            "rusage": describe::usage(),
            // Our additions: one request is enough to show a worker at a glance.
            "running": self.running.count(),
            // Held by plain functions that passed their time limit.
            "lost_slots": self.slots.lost(),
            // Finished, with an outcome that waits for the broker or the backend.
            "settling": slowest.as_ref().map_or(0, |slowest| slowest.count),
            "settling_seconds": slowest.as_ref().map(|slowest| slowest.lasts.as_secs()),
            "settling_waits_for": slowest.map(|slowest| slowest.waits_for),
            "queues": self.sources.queues(),
            "stopping": self.handle.is_stopping(),
            // Events that were dropped for lack of room or of a broker.
            "events_dropped": self.heartbeat.reporter.dropped(),
            "sw_ident": "mq-worker",
            "sw_ver": env!("CARGO_PKG_VERSION"),
        })
    }

    fn active(&self, arguments_as: ArgumentsAs) -> Value {
        // A reply has to fit into a message: in a long list only the first tasks have their arguments.
        const WITH_ARGUMENTS: usize = 1000;
        let tasks = self.running.list();
        let info = |(index, task)| {
            let arguments_as = if index < WITH_ARGUMENTS { arguments_as } else { ArgumentsAs::Dots };
            describe::task(&self.name, task, arguments_as)
        };
        Value::Array(tasks.iter().enumerate().map(info).collect())
    }

    /// The deliveries that wait for a slot, in the order in which they will run.
    pub(super) async fn reserved(&self) -> Value {
        let reserved = self.reserved_deliveries().await;
        reserved.iter().map(|delivery| describe::reserved(&self.name, delivery)).collect()
    }

    async fn reserved_deliveries(&self) -> Vec<Reserved> {
        match self.handle.is_stopping() {
            true => Vec::new(),
            false => self.reserved_requests.ask(&self.pauses).await,
        }
    }

    pub(super) async fn query_task(&self, arguments: &Map<String, Value>) -> Value {
        let Some(ids) = arguments.get("ids") else {
            return missing("query_task", "ids");
        };
        let wanted = |id: &str| match ids {
            Value::Array(ids) => ids.iter().any(|one| one.as_str() == Some(id)),
            one => one.as_str() == Some(id),
        };
        let reserved = self.reserved_deliveries().await;
        let waiting = reserved.iter().filter_map(|delivery| Some((delivery.message.id()?, delivery)));
        let waiting = waiting.filter(|(id, _)| wanted(id)).map(|(id, delivery)| {
            (id.to_owned(), json!(["reserved", describe::reserved(&self.name, delivery)]))
        });
        // Running tasks come last: a reserved one may have started since.
        let found = self.running.list().into_iter().filter(|task| wanted(task.context.id())).map(|task| {
            (
                task.context.id().to_owned(),
                json!(["active", describe::task(&self.name, &task, ArgumentsAs::Values)]),
            )
        });
        Value::Object(waiting.chain(found).collect())
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

    /// Revokes calls that wait or run here, and records them for workers that start later. A signal in the command is not
    /// sent: a call is not a process, and the process of an isolated call is killed.
    fn revoke(&self, method: &str, arguments: &Map<String, Value>, terminate: bool) -> Value {
        let ids: Vec<String> = match arguments.get("task_id") {
            Some(Value::String(id)) => vec![id.clone()],
            Some(Value::Array(ids)) => ids.iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect(),
            _ => {
                return missing(method, "task_id");
            }
        };
        let note_of = |id: &String| Note { terminate, ..Note::new(id, Register::Revoked.max_lifetime()) };
        let notes: Vec<Note> = ids.iter().map(note_of).collect();
        self.revocations.add(notes.iter().cloned());
        let mut running = Vec::new();
        for task in self.running.list().iter().filter(|task| ids.iter().any(|id| id == task.context.id())) {
            self.revocations.pass_on(&task.context);
            running.push(task.context.id().to_owned());
        }
        let ids = ids.join(", ");
        tracing::info!(ids, terminate, "revoked by remote control");
        // Python's clients notify only the workers that are running now.
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
        json!({"ok": match (terminate, running.as_slice()) {
            (false, _) => format!("tasks {ids} flagged as revoked"),
            (true, []) => "terminate: tasks unknown".to_owned(),
            (true, running) => format!("terminate: {}", running.join(", ")),
        }})
    }

    /// Revokes calls by stamps: future ones, and with `terminate` those that run here.
    fn revoke_by_stamps(&self, arguments: &Map<String, Value>) -> Value {
        let headers = arguments.get("headers").unwrap_or(&Value::Null);
        let Some(stamps) = stamps::read(headers) else {
            return missing("revoke_by_stamped_headers", "headers");
        };
        if !self.revocations.stamps.add(&stamps) {
            return error("ValueError", "more stamps are revoked than a worker keeps");
        }
        let shown = crate::events::text(headers.to_string().as_bytes());
        tracing::info!(stamps = shown, "revoked by remote control");
        if !is_set(arguments, "terminate") {
            return json!({"ok": format!("headers {shown} flagged as revoked, but not terminated")});
        }
        let running = self.running.list();
        let mut concerned =
            running.iter().filter(|task| stamps::has_one_of(task.context.headers(), &stamps)).peekable();
        if concerned.peek().is_none() {
            return json!({"ok": format!("headers {shown} were not terminated")});
        }
        concerned.for_each(|task| task.context.terminate());
        json!({"ok": format!("headers {shown} revoked")})
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

    /// Answers a node that announces itself, with the ids that were revoked.
    fn hello(&self, arguments: &Map<String, Value>) -> Value {
        if arguments.get("from_node").and_then(Value::as_str) == Some(&self.name) {
            return Value::Null;
        }
        json!({"revoked": self.revocations.ids(), "clock": self.clock.forward()})
    }
}

fn is_set(arguments: &Map<String, Value>, name: &str) -> bool {
    match arguments.get(name) {
        Some(Value::Bool(set)) => *set,
        // Flower sends 1 for true.
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        _ => false,
    }
}

async fn write_down(app: &App, notes: &[Note]) -> Result<()> {
    let broker = app.broker().await?;
    for note in notes {
        broker.note(Register::Revoked, note).await?;
    }
    Ok(())
}

/// An option of a task by Celery's name for it, if it is set.
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
