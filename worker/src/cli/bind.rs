//! `mq-worker bind EXCHANGE QUEUE KEY` and `unbind`: which messages of an exchange a queue gets.

use super::arguments::{BindArguments, CommonArguments};
use super::exit::Outcome;
use super::{operate, output};
use crate::routing::{Binding, Topology};

pub(super) fn run(arguments: BindArguments, common: &CommonArguments) -> Outcome {
    let binding = binding(arguments);
    operate::run(common, |app| async move {
        let text = format!("queue `{}` is bound to exchange `{}`", binding.queue, binding.exchange);
        let topology = Topology { bindings: vec![binding], ..Topology::default() };
        app.broker().await?.declare(&topology).await?;
        output::data(text)
    })
}

pub(super) fn undo(arguments: BindArguments, common: &CommonArguments) -> Outcome {
    let binding = binding(arguments);
    operate::run(common, |app| async move {
        app.broker().await?.unbind(&binding).await?;
        let Binding { queue, exchange, routing_key } = binding;
        output::data(format!(
            "queue `{queue}` is not bound to exchange `{exchange}` with key `{routing_key}`"
        ))
    })
}

fn binding(arguments: BindArguments) -> Binding {
    let BindArguments { exchange, queue, key } = arguments;
    Binding { exchange, queue, routing_key: key }
}
