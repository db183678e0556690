//! `mq-worker bindings`: lists the bindings of queues to exchanges.

use super::arguments::{BindingsArguments, CommonArguments};
use super::exit::Outcome;
use super::{operate, output};
use crate::admin::inventory::{self, Inventory};
use crate::app::App;
use crate::control::mailbox;
use crate::routing::Binding;

pub(super) fn run(arguments: BindingsArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { show(&app, arguments).await })
}

async fn show(app: &App, BindingsArguments { exchange, queue, json }: BindingsArguments) -> Outcome {
    let broker = app.broker().await?;
    let Inventory { found: mut bindings, gap } =
        inventory::bindings(app, exchange.as_deref(), queue.as_deref()).await?;
    bindings.retain(|binding| {
        exchange.as_ref().is_none_or(|name| *name == binding.exchange)
            && queue.as_ref().is_none_or(|name| *name == binding.queue)
            // Mailboxes come and go with every worker and every remote control request.
            && (queue.is_some() || !mailbox::is_mailbox(&binding.queue))
    });
    bindings.sort();
    if json {
        output::json(&bindings)?;
    } else if !bindings.is_empty() {
        let row = |binding: &Binding| {
            let Binding { exchange, queue, routing_key } = binding.clone();
            vec![exchange, queue, routing_key]
        };
        output::table(&["exchange", "queue", "routing key"], bindings.iter().map(row).collect(), 3)?;
    }
    if let Some(gap) = gap {
        output::note(gap.end("bindings", broker.capabilities().name, bindings.is_empty())?);
        return Ok(());
    }
    if bindings.is_empty() {
        output::note(format!("no bindings on {}", app.config().broker_url));
    }
    Ok(())
}
