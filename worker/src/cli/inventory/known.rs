//! Exchanges and bindings that are known without asking the broker.

use crate::app::App;
use crate::control::mailbox;
use crate::routing::{Exchange, ExchangeKind, Topology};

/// The exchanges and bindings that configuration and tasks name, and those of remote control.
pub(in crate::cli) fn known(app: &App) -> Topology {
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
