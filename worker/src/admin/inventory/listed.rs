//! Queues, exchanges and bindings, as RabbitMQ's management API lists them.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Found, Gap, Inventory, Queues, is_internal, is_rung, shown};
use crate::admin::failure::{FAILED, Failure, Outcome};
use crate::admin::management::{Listed, ListedQueue, Management};
use crate::app::App;
use crate::broker::{Broker, ExchangeInfo, QueueInfo};
use crate::routing::Binding;

/// The most queues that are asked for their counts one by one.
const MOST_ASKED: usize = 1000;

/// The queues. The API's counts are seconds old, so the broker is asked for current ones.
pub(crate) async fn queues(app: &App, broker: &dyn Broker) -> Result<Queues, Gap> {
    let Listed { found, left_out } = ask(app, async |api| api.queues().await).await?;
    // A temporary queue with a generated name holds the results of one program.
    let is_own = |queue: &ListedQueue| queue.is_temporary() && Uuid::try_parse(&queue.name).is_ok();
    let listed: BTreeMap<String, ListedQueue> = found
        .into_iter()
        .filter(|queue| is_rung(&queue.name) || !is_internal(&queue.name) && !is_own(queue))
        .map(|queue| (queue.name.clone(), queue))
        .collect();
    // Only the owner of an exclusive queue may ask for its counts.
    let common = listed.values().filter(|queue| !queue.exclusive);
    let asked: Vec<String> = common.take(MOST_ASKED).map(|queue| queue.name.clone()).collect();
    let now: BTreeMap<String, QueueInfo> = match broker.queues(&asked).await {
        Ok(now) => now.into_iter().map(|info| (info.name.clone(), info)).collect(),
        Err(_) => BTreeMap::new(),
    };
    let found = listed.into_values().map(|queue| {
        let (mut info, oldest) = (queue.info(), queue.oldest());
        if let Some(now) = now.get(&info.name) {
            (info.ready, info.consumers) = (now.ready, now.consumers);
        }
        Found { oldest: oldest.filter(|_| info.ready > 0), info }
    });
    let (rungs, found): (Vec<Found>, Vec<Found>) = found.partition(|queue| is_rung(&queue.info.name));
    let delayed = rungs.iter().map(|queue| queue.info.ready).sum();
    let queues = Inventory { found: shown(found), gap: more(left_out) };
    Ok(Queues { queues, delayed: Some(delayed) })
}

/// The exchanges, without those of the delay ladder.
pub(crate) async fn exchanges(app: &App) -> Result<Inventory<ExchangeInfo>, Gap> {
    let Listed { mut found, left_out } = ask(app, async |api| api.exchanges().await).await?;
    found.retain(|exchange| !is_rung(&exchange.name));
    Ok(Inventory { found, gap: more(left_out) })
}

/// The bindings of an exchange, of a queue, or all.
pub(crate) async fn bindings(
    app: &App,
    exchange: Option<&str>,
    queue: Option<&str>,
) -> Result<Vec<Binding>, Gap> {
    let mut found = ask(app, async |api| api.bindings(exchange, queue).await).await?;
    found.retain(|binding| exchange.is_some() || !is_rung(&binding.exchange));
    Ok(found)
}

async fn ask<T>(app: &App, question: impl AsyncFnOnce(&Management) -> Outcome<T>) -> Result<T, Gap> {
    let is_misconfigured = app.config().management_url.is_some();
    let gap = |failure: Failure| {
        let (code, why) = failure.into_parts();
        Gap { code, known_only: true, is_misconfigured, why }
    };
    let api = Management::of(app.config()).map_err(gap)?;
    question(&api).await.map_err(gap)
}

fn more(left_out: usize) -> Option<Gap> {
    let why = format!("{left_out} more not shown; give their names to see them");
    (left_out > 0).then_some(Gap { code: FAILED, known_only: false, is_misconfigured: false, why })
}
