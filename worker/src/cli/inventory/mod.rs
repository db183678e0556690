//! Which queues, exchanges and bindings a broker has: from the broker where it can list them, else from RabbitMQ's
//! management API, else those that configuration and tasks name, with the reason why there may be more.

#[cfg(feature = "amqp")]
mod listed;

use std::collections::BTreeSet;
use std::time::Duration;

use super::exit::{Failure, Outcome};
use super::{exchanges, output};
use crate::app::App;
use crate::broker::{ExchangeInfo, QueueInfo, Register};
use crate::control::mailbox;
use crate::events::exchange::is_live_queue;
use crate::routing::router::Wanted;
use crate::routing::{Binding, Queue};

/// What was found, and why that may not be all.
pub(super) struct Inventory<T> {
    pub(super) found: Vec<T>,
    pub(super) gap: Option<Gap>,
}

/// Why a list is not complete.
pub(super) struct Gap {
    code: u8,
    /// True when nothing but the known ones was looked for.
    known_only: bool,
    /// True when somebody said how to list them, and it did not work.
    is_a_mistake: bool,
    why: String,
}

/// A queue, with what only some brokers tell.
pub(super) struct Found {
    pub(super) info: QueueInfo,
    /// How long its oldest message has waited.
    pub(super) oldest: Option<Duration>,
}

/// All queues of a broker.
pub(super) struct Queues {
    pub(super) queues: Inventory<Found>,
    /// Messages that wait for their time in queues of their own, where a queue's own count does not hold them.
    pub(super) delayed: Option<u64>,
}

impl<T> Inventory<T> {
    fn complete(found: Vec<T>) -> Self {
        Self { found, gap: None }
    }
}

impl Gap {
    /// The end of a command that has shown what there is: an error when nothing was found, or when listing was set up and
    /// failed; else a word about it.
    pub(super) fn end(self, what: &str, broker: &str, is_empty: bool) -> Outcome {
        let text = self.text(what, broker);
        if is_empty || self.is_a_mistake {
            return Err(Failure::new(self.code, text));
        }
        output::note(text);
        Ok(())
    }

    pub(super) fn text(&self, what: &str, broker: &str) -> String {
        let Self { why, known_only, .. } = self;
        match known_only {
            true => format!(
                "{broker} lists its {what} only through the management API, and {why}; these are only the ones that \
                 configuration and tasks name and that exist"
            ),
            false => format!("not all {what} of {broker} are shown: {why}"),
        }
    }
}

/// All queues: with those of `also` where the broker cannot list them.
pub(super) async fn queues(app: &App, also: impl IntoIterator<Item = String>) -> Outcome<Queues> {
    let broker = app.broker().await?;
    if broker.capabilities().lists_queues {
        let mut found = Vec::new();
        for info in broker.queues(&[]).await? {
            let oldest = if info.ready > 0 { broker.oldest(&info.name).await? } else { None };
            found.push(Found { info, oldest });
        }
        return Ok(Queues { queues: Inventory::complete(shown(found)), delayed: None });
    }
    match listed::queues(app, &*broker).await {
        Ok(queues) => Ok(queues),
        Err(gap) => {
            let mut names: BTreeSet<String> = known_queues(app).into_iter().collect();
            names.extend(also);
            let names: Vec<String> = names.into_iter().collect();
            let found = broker.queues(&names).await?.into_iter().map(|info| Found { info, oldest: None });
            let queues = Inventory { found: shown(found.collect()), gap: Some(gap) };
            Ok(Queues { queues, delayed: None })
        }
    }
}

/// All exchanges but the broker's own.
pub(super) async fn exchanges(app: &App) -> Outcome<Inventory<ExchangeInfo>> {
    let broker = app.broker().await?;
    match broker.exchanges(&[]).await {
        Err(error) if error.is_unsupported() => {}
        listed => return Ok(Inventory::complete(listed?)),
    }
    match listed::exchanges(app).await {
        Ok(exchanges) => Ok(exchanges),
        Err(gap) => {
            let names: Vec<String> =
                exchanges::known(app).exchanges.into_iter().map(|exchange| exchange.name).collect();
            Ok(Inventory { found: broker.exchanges(&names).await?, gap: Some(gap) })
        }
    }
}

/// The bindings of an exchange, of a queue, or all.
pub(super) async fn bindings(
    app: &App,
    exchange: Option<&str>,
    queue: Option<&str>,
) -> Outcome<Inventory<Binding>> {
    let broker = app.broker().await?;
    match broker.bindings().await {
        Err(error) if error.is_unsupported() => {}
        listed => return Ok(Inventory::complete(listed?)),
    }
    Ok(match listed::bindings(app, exchange, queue).await {
        Ok(found) => Inventory::complete(found),
        Err(gap) => Inventory { found: exchanges::known(app).bindings, gap: Some(gap) },
    })
}

/// The queues that configuration and tasks name, with their dead-letter queues.
fn known_queues(app: &App) -> BTreeSet<String> {
    let config = app.config();
    let mut names: BTreeSet<String> = BTreeSet::from([config.default_queue.clone()]);
    names.extend(config.worker.queues.iter().cloned());
    names.extend(config.topology.queues.iter().map(|queue| queue.name.clone()));
    names.extend(config.routes.iter().filter_map(|rule| rule.queue.clone()));
    names.extend(
        app.registry()
            .iter()
            .filter_map(|task| app.router().route(task.name, task.options.queue, Wanted::default()).queue),
    );
    let dead: Vec<String> = names.iter().map(|name| Queue::dead_letter_name(name)).collect();
    names.extend(dead);
    names
}

/// True for queues and exchanges that carry no work but serve this crate or Celery.
fn is_internal(name: &str) -> bool {
    let registers = [Register::Revoked, Register::Done, Register::Tried];
    // Mailboxes come and go with every worker and every question to them.
    mailbox::is_mailbox(name)
        || is_live_queue(name)
        || is_rung(name)
        || name.starts_with("mq.lock.")
        || registers.iter().any(|register| register.name() == name)
}

/// True for a part of the ladder on which delayed messages wait.
fn is_rung(name: &str) -> bool {
    name.starts_with("celery_delayed_") || name.starts_with("mq_worker_delayed_")
}

fn shown(mut queues: Vec<Found>) -> Vec<Found> {
    queues.retain(|queue| !is_internal(&queue.info.name));
    queues.sort_by(|a, b| a.info.name.cmp(&b.info.name));
    queues
}

/// Without RabbitMQ every broker lists by itself.
#[cfg(not(feature = "amqp"))]
mod listed {
    use super::{App, Binding, ExchangeInfo, Gap, Inventory, Queues};
    use crate::broker::Broker;

    fn none() -> Gap {
        let why = "this build has no `amqp`".into();
        Gap { code: crate::cli::exit::FAILED, known_only: true, is_a_mistake: false, why }
    }

    pub(super) async fn queues(_: &App, _: &dyn Broker) -> Result<Queues, Gap> {
        Err(none())
    }

    pub(super) async fn exchanges(_: &App) -> Result<Inventory<ExchangeInfo>, Gap> {
        Err(none())
    }

    pub(super) async fn bindings(_: &App, _: Option<&str>, _: Option<&str>) -> Result<Vec<Binding>, Gap> {
        Err(none())
    }
}
