//! The audit trail: who did what, to what, and when.

use std::sync::Arc;

use axum::extract::State as Shared;
use maud::{Markup, html};

use super::layout::{Liveness, Section, empty, heading, page};
use super::parts::ago;
use crate::dashboard::guard::Viewer;
use crate::dashboard::state::State;

/// How many entries are shown.
const SHOWN: u32 = 200;

/// `GET /activity`
pub(crate) async fn show(Shared(state): Shared<Arc<State>>, viewer: Viewer) -> Markup {
    let trail = state.history.audit_trail(SHOWN).await;
    let content = html! {
        (heading("Activity", &html! { "What people and programs have done on this page, the last first." }, &html! {}))
        div #trail data-live {
            @match trail {
                Err(error) => (empty("Cannot read the audit trail", &format!("{error:#}"))),
                Ok(trail) if trail.is_empty() => (empty("Nobody has done anything yet", "Actions are written down with who, what and when.")),
                Ok(trail) => div.scroll {
                    table {
                        thead { tr {
                            th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "To what" }
                        } }
                        tbody {
                            @for entry in trail {
                                tr {
                                    td.time { (ago(entry.at)) }
                                    td.strong { (entry.who) }
                                    td { (entry.action.replace('-', " ")) }
                                    td.code { (entry.subject) }
                                }
                            }
                        }
                    }
                },
            }
        }
    };
    page(&state, &viewer, Section::Activity, "Activity", Liveness::Live, &content)
}
