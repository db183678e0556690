//! The queues, exchanges and bindings of a broker: from the broker if it can list them, else from RabbitMQ's management
//! API, else those that configuration and tasks name, with the reason why there may be more.

#[cfg(feature = "amqp")]
mod listed;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::admin::failure::{Failure, Outcome};
use crate::app::App;
use crate::broker::{ExchangeInfo, QueueInfo, Register};
use crate::control::mailbox;
use crate::events::exchange::is_live_queue;
use crate::routing::names::RESULT_QUEUES;
use crate::routing::router::Wanted;
use crate::routing::{Binding, Exchange, ExchangeKind, Queue, Topology};

/// What was found, and why that may not be all.
pub(crate) struct Inventory<T> {
    pub(crate) found: Vec<T>,
    pub(crate) gap: Option<Gap>,
}

/// Why a list is not complete.
pub(crate) struct Gap {
    code: u8,
    /// True if only the known names were looked up.
    known_only: bool,
    /// True if listing was configured and failed.
    is_misconfigured: bool,
    why: String,
}

/// A queue, with details that only some brokers report.
pub(crate) struct Found {
    pub(crate) info: QueueInfo,
    /// How long its oldest message has waited.
    pub(crate) oldest: Option<Duration>,
}

/// All queues of a broker.
pub(crate) struct Queues {
    pub(crate) queues: Inventory<Found>,
    /// Delayed messages that wait in separate queues, if a queue's own count does not include them.
    pub(crate) delayed: Option<u64>,
}

impl<T> Inventory<T> {
    fn complete(found: Vec<T>) -> Self {
        Self { found, gap: None }
    }
}

impl Gap {
    /// Ends a request that has shown what it found: with an error if nothing was found, or if listing was configured and
    /// failed; otherwise with a note.
    pub(crate) fn end(self, what: &str, broker: &str, is_empty: bool) -> Outcome<String> {
        let text = if is_empty { self.reason(what, broker) } else { self.text(what, broker) };
        if is_empty || self.is_misconfigured { Err(Failure::new(self.code, text)) } else { Ok(text) }
    }

    /// Why listing failed, if it was configured.
    #[cfg(feature = "dashboard")]
    pub(crate) fn mistake(&self) -> Option<&str> {
        (self.is_misconfigured && self.known_only).then_some(&self.why)
    }

    pub(crate) fn text(&self, what: &str, broker: &str) -> String {
        let reason = self.reason(what, broker);
        match self.known_only {
            true => {
                format!("{reason}; these are only the ones that configuration and tasks name and that exist")
            }
            false => reason,
        }
    }

    fn reason(&self, what: &str, broker: &str) -> String {
        let Self { why, known_only, .. } = self;
        match known_only {
            true => format!("{broker} lists its {what} only through the management API, and {why}"),
            false => format!("not all {what} of {broker} are shown: {why}"),
        }
    }
}

/// All queues. If the broker cannot list them, those in `also` are looked up too.
pub(crate) async fn queues(app: &App, also: impl IntoIterator<Item = String>) -> Outcome<Queues> {
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
pub(crate) async fn exchanges(app: &App) -> Outcome<Inventory<ExchangeInfo>> {
    let broker = app.broker().await?;
    match broker.exchanges(&[]).await {
        Err(error) if error.is_unsupported() => {}
        listed => return Ok(Inventory::complete(listed?)),
    }
    match listed::exchanges(app).await {
        Ok(exchanges) => Ok(exchanges),
        Err(gap) => {
            let names: Vec<String> = known(app).exchanges.into_iter().map(|exchange| exchange.name).collect();
            Ok(Inventory { found: broker.exchanges(&names).await?, gap: Some(gap) })
        }
    }
}

/// The bindings of an exchange, of a queue, or all.
pub(crate) async fn bindings(
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
        Err(gap) => Inventory { found: known(app).bindings, gap: Some(gap) },
    })
}

/// The exchanges and bindings that configuration and tasks name, and those of remote control.
pub(crate) fn known(app: &App) -> Topology {
    let mut topology = app.config().topology.clone();
    for task in app.registry().iter() {
        topology.merge(app.subscription(task));
        if task.options.broadcast {
            let exchange = Exchange::new(App::broadcast_exchange(task.name), ExchangeKind::Fanout);
            topology.merge(Topology { exchanges: vec![exchange], ..Topology::default() });
        }
    }
    let topics = Exchange::new(&app.config().topic_exchange, ExchangeKind::Topic);
    topology.merge(Topology { exchanges: vec![topics], ..Topology::default() });
    topology.merge(Topology { exchanges: mailbox::exchanges(), ..Topology::default() });
    topology
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
    // Mailboxes come and go with every worker and every command that expects replies.
    mailbox::is_mailbox(name)
        || is_live_queue(name)
        || is_rung(name)
        || name.starts_with("mq-worker.history.")
        || name.starts_with("mq.lock.")
        || name.starts_with(RESULT_QUEUES)
        || Register::ALL.iter().any(|register| register.name() == name)
}

/// True for a part of the ladder of queues and exchanges where delayed messages wait.
fn is_rung(name: &str) -> bool {
    name.starts_with("celery_delayed_") || name.starts_with("mq_worker_delayed_")
}

fn shown(mut queues: Vec<Found>) -> Vec<Found> {
    queues.retain(|queue| !is_internal(&queue.info.name));
    queues.sort_by(|a, b| a.info.name.cmp(&b.info.name));
    queues
}

/// Without RabbitMQ, every broker can list its queues itself.
#[cfg(not(feature = "amqp"))]
mod listed {
    use super::{App, Binding, ExchangeInfo, Gap, Inventory, Queues};
    use crate::broker::Broker;

    fn none() -> Gap {
        let why = "this build has no `amqp`".into();
        Gap { code: crate::admin::failure::FAILED, known_only: true, is_misconfigured: false, why }
    }

    pub(crate) async fn queues(_: &App, _: &dyn Broker) -> Result<Queues, Gap> {
        Err(none())
    }

    pub(crate) async fn exchanges(_: &App) -> Result<Inventory<ExchangeInfo>, Gap> {
        Err(none())
    }

    pub(crate) async fn bindings(_: &App, _: Option<&str>, _: Option<&str>) -> Result<Vec<Binding>, Gap> {
        Err(none())
    }
}
