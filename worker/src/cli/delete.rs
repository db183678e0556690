//! `mq-worker delete queue|exchange NAME`: deletes a queue or an exchange.

use super::arguments::{CommonArguments, DeleteCommand, DeleteExchangeArguments, DeleteQueueArguments};
use super::exit::{Failure, Outcome};
use super::operate::{self, counted};
use super::output;
use crate::app::App;
use crate::broker::DeleteGuard;
use crate::routing::Queue;

pub(super) fn run(command: DeleteCommand, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move {
        match command {
            DeleteCommand::Queue(arguments) => queue(&app, arguments).await,
            DeleteCommand::Exchange(arguments) => exchange(&app, arguments).await,
        }
    })
}

async fn queue(app: &App, arguments: DeleteQueueArguments) -> Outcome {
    let DeleteQueueArguments { name, if_empty, force, yes, .. } = arguments;
    let guard = DeleteGuard { if_unused: !force, if_empty };
    let (broker, info) = operate::queue(app, &name).await?;
    let waiting = info.ready + info.delayed.unwrap_or(0);
    // A broker that does not report running messages counts consumers, which has the same effect here.
    let running = info.running.unwrap_or(0);
    // Check first: do not ask for confirmation of something impossible. The broker checks again.
    guard.check_queue(&name, info.consumers, running, waiting).map_err(|error| hint(&error, force))?;
    let lost = counted(waiting + running, "message");
    output::confirm(&format!("Delete queue `{name}` with {lost} permanently?"), yes)?;
    let lost = broker.delete_queue_if(&name, guard).await?;
    output::data(format!("queue `{name}` deleted, with {}", counted(lost, "message")))?;
    let dead = Queue::dead_letter_name(&name);
    if let Some(left) = broker.queues(std::slice::from_ref(&dead)).await?.first() {
        output::note(format!(
            "its dead-letter queue `{dead}` still exists, with {}",
            counted(left.ready, "message")
        ));
    }
    Ok(())
}

async fn exchange(app: &App, arguments: DeleteExchangeArguments) -> Outcome {
    let DeleteExchangeArguments { name, force, yes, .. } = arguments;
    let broker = app.broker().await?;
    if broker.exchanges(std::slice::from_ref(&name)).await?.is_empty() {
        return Err(Failure::failed(format!("there is no exchange `{name}` on {}", app.config().broker_url)));
    }
    output::confirm(&format!("Delete exchange `{name}`?"), yes)?;
    let guard = DeleteGuard { if_unused: !force, if_empty: false };
    broker
        .delete_exchange(&name, guard)
        .await
        .map_err(|error| if error.is_topology() { hint(&error, force) } else { error.into() })?;
    output::data(format!("exchange `{name}` deleted"))
}

/// Suggests `--force` where it would help.
fn hint(error: &crate::error::Error, force: bool) -> Failure {
    let remedy =
        if force || !error.to_string().contains("in use") { "" } else { "; use --force to delete it anyway" };
    Failure::failed(format!("{error:#}{remedy}"))
}
