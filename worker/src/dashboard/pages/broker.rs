//! The broker: exchanges and bindings.

use std::sync::Arc;

use axum::extract::State as Shared;
use maud::{Markup, html};

use super::layout::{Liveness, Section, heading, page};
use super::parts::{ago, state as state_of};
use super::queue;
use crate::admin::connection::ConnectionInfo;
use crate::admin::connections;
use crate::admin::inventory;
use crate::broker::ExchangeInfo;
use crate::control::mailbox;
use crate::dashboard::guard::Viewer;
use crate::dashboard::state::State;
use crate::routing::ExchangeKind;

/// `GET /broker`
pub(crate) async fn show(Shared(state): Shared<Arc<State>>, viewer: Viewer) -> Markup {
    let snapshot = state.watcher.fresh().await;
    let name = snapshot.broker.name;
    let (exchanges, bindings, connections) = tokio::join!(
        state.asking(inventory::exchanges(&state.app)),
        state.asking(inventory::bindings(&state.app, None, None)),
        connections::connections(&state.app),
    );
    let config = state.app.config();
    let content = html! {
        (heading(name, &html! { "Broker" }, &html! {}))
        dl #facts .facts.long data-live {
            div { dt { "Address" } dd.code { (snapshot.broker.url) } }
            div { dt { "Connection" } dd {
                @match &snapshot.broker.error {
                    None => span.state.good { "connected" },
                    Some(error) => { span.state.bad { "away" } " " (error) },
                }
            } }
            div { dt { "Results" } dd.code { (config.effective_result_backend()) } }
            @if let Some(url) = &config.management_url { div { dt { "Management API" } dd.code { (url) } } }
            div { dt { "Default queue" } dd.code { (config.default_queue) } }
        }
        @if let Some(found) = connections {
            section aria-labelledby="connections" {
                h2 #connections { "Connections" }
                @match found {
                    Ok(found) => (self::connections(&found)),
                    Err(failure) => p.note { (failure.into_parts().1) },
                }
            }
        }
        section aria-labelledby="exchanges" {
            h2 #exchanges { "Exchanges" }
            @match exchanges {
                Ok(found) => {
                    (self::exchanges(found.found))
                    @if let Some(gap) = found.gap { p.note { (gap.text("exchanges", name)) } }
                },
                Err(failure) => p.note { (failure.into_parts().1) },
            }
        }
        section aria-labelledby="bindings" {
            h2 #bindings { "Bindings" }
            @match bindings {
                Ok(found) => {
                    // Mailboxes are left out: they come and go with every worker and every remote control request.
                    (queue::bindings(found.found.iter().filter(|binding| !mailbox::is_mailbox(&binding.queue)), "None: queues are reached through the default exchange, by their names."))
                    @if let Some(gap) = found.gap { p.note { (gap.text("bindings", name)) } }
                },
                Err(failure) => p.note { (failure.into_parts().1) },
            }
        }
    };
    page(&state, &viewer, Section::Broker, "Broker", Liveness::Live, &content)
}

fn connections(connections: &[ConnectionInfo]) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr {
                    th scope="col" { "Connection" } th scope="col" .wide { "From" } th scope="col" .wide { "User" }
                    th scope="col" { "State" } th scope="col" .number { "Channels" } th scope="col" .number.wide { "Since" }
                } }
                tbody {
                    @for connection in connections {
                        tr {
                            th scope="row" .code { (connection.name) }
                            td.code.wide { (connection.peer) }
                            td.wide { (connection.user) }
                            td { (state_of(&connection.state)) }
                            td.number { (connection.channels) }
                            td.number.wide { @if let Some(since) = connection.since { (ago(since)) } }
                        }
                    }
                }
            }
        }
    }
}

fn exchanges(mut exchanges: Vec<ExchangeInfo>) -> Markup {
    exchanges.sort_by(|a, b| a.name.cmp(&b.name));
    let word = |yes: Option<bool>| yes.map_or("–", |yes| if yes { "yes" } else { "no" });
    if exchanges.is_empty() {
        return html! { p.note { "None besides the broker's own." } };
    }
    html! {
        div.scroll {
            table {
                thead { tr {
                    th scope="col" { "Exchange" } th scope="col" { "Kind" } th scope="col" { "Durable" }
                    th scope="col" { "Deleted when unused" }
                } }
                tbody {
                    @for exchange in exchanges {
                        tr {
                            th scope="row" .code { (exchange.name) }
                            td { (exchange.kind.map_or("–", ExchangeKind::as_str)) }
                            td { (word(exchange.durable)) }
                            td { (word(exchange.auto_delete)) }
                        }
                    }
                }
            }
        }
    }
}
