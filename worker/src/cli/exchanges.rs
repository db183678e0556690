//! `mq-worker exchanges`: lists exchanges.

use super::arguments::{CommonArguments, ExchangesArguments};
use super::exit::{Failure, Outcome};
use super::{operate, output};
use crate::admin::inventory::{self, Inventory};
use crate::app::App;
use crate::broker::ExchangeInfo;
use crate::routing::{Exchange, ExchangeKind};

pub(super) fn run(arguments: ExchangesArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { show(&app, arguments).await })
}

async fn show(app: &App, ExchangesArguments { names, json }: ExchangesArguments) -> Outcome {
    let broker = app.broker().await?;
    let known = inventory::known(app).exchanges;
    let (mut exchanges, gap) = if names.is_empty() {
        let Inventory { found, gap } = inventory::exchanges(app).await?;
        (found, gap)
    } else {
        (broker.exchanges(&names).await?, None)
    };
    exchanges.sort_by(|a, b| a.name.cmp(&b.name));
    for exchange in &mut exchanges {
        complete(exchange, &known);
    }
    if json {
        output::json(&exchanges)?;
    } else if !exchanges.is_empty() {
        let rows = exchanges.iter().map(row).collect();
        output::table(&["exchange", "kind", "durable", "auto-delete"], rows, 4)?;
    }
    let missing: Vec<&str> = names
        .iter()
        .filter(|name| exchanges.iter().all(|exchange| exchange.name != **name))
        .map(String::as_str)
        .collect();
    let url = &app.config().broker_url;
    if !missing.is_empty() {
        return Err(Failure::failed(format!("not found on {url}: {}", missing.join(", "))));
    }
    if let Some(gap) = gap {
        output::note(gap.end("exchanges", broker.capabilities().name, exchanges.is_empty())?);
        return Ok(());
    }
    if exchanges.is_empty() {
        output::note(format!("no exchanges on {url}"));
    }
    Ok(())
}

/// Fills in what the broker does not report from the declaration.
fn complete(exchange: &mut ExchangeInfo, known: &[Exchange]) {
    let Some(known) = known.iter().find(|known| known.name == exchange.name) else { return };
    let ExchangeInfo { kind, durable, auto_delete, .. } = exchange;
    *kind = kind.or(Some(known.kind));
    *durable = durable.or(Some(known.durable));
    *auto_delete = auto_delete.or(Some(known.auto_delete));
}

fn row(exchange: &ExchangeInfo) -> Vec<String> {
    let word = |yes: Option<bool>| yes.map_or("?", |yes| if yes { "yes" } else { "no" }).to_owned();
    let kind = exchange.kind.map_or("?", ExchangeKind::as_str);
    vec![exchange.name.clone(), kind.to_owned(), word(exchange.durable), word(exchange.auto_delete)]
}
