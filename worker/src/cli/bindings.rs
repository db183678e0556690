//! `mq-worker bindings`: which queue gets which messages of which exchange.

use super::arguments::CommonArguments;
use super::exit::Outcome;
use super::topology_arguments::BindingsArguments;
use super::{exchanges, operate, output};
use crate::app::App;
use crate::control::mailbox;
use crate::routing::Binding;

pub(super) fn run(arguments: BindingsArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { show(&app, arguments).await })
}

async fn show(app: &App, BindingsArguments { exchange, queue, json }: BindingsArguments) -> Outcome {
    let broker = app.broker().await?;
    let (mut bindings, listed) = match broker.bindings().await {
        Ok(bindings) => (bindings, true),
        Err(error) if error.is_unsupported() => (exchanges::known(app).bindings, false),
        Err(error) => return Err(error.into()),
    };
    bindings.retain(|binding| {
        exchange.as_ref().is_none_or(|name| *name == binding.exchange)
            && queue.as_ref().is_none_or(|name| *name == binding.queue)
            // Mailboxes come and go with every worker and every question to them.
            && (queue.is_some() || !mailbox::is_mailbox(&binding.queue))
    });
    bindings.sort();
    if json {
        output::json(&bindings)?;
    } else if !bindings.is_empty() {
        let row = |Binding { exchange, queue, routing_key }| vec![exchange, queue, routing_key];
        output::table(&["exchange", "queue", "routing key"], bindings.into_iter().map(row).collect(), 3)?;
    } else if listed {
        output::note(format!("no bindings on {}", app.config().broker_url));
    }
    if !listed {
        let broker = broker.capabilities().name;
        output::note(format!(
            "{broker} cannot list its bindings to a client: these are the ones that configuration and tasks ask for; \
             `rabbitmqctl list_bindings` on the server shows all that exist"
        ));
    }
    Ok(())
}
