//! `mq-worker revoke ID…`: revokes or terminates calls.

use super::arguments::{CommonArguments, RevokeArguments};
use super::exit::Outcome;
use super::result::{is_sent_to_caller_only, on};
use super::{operate, output};
use crate::app::App;
use crate::broker::Register;
use crate::control::{Control, FoundCalls};
use crate::state::State;

pub(super) fn run(arguments: RevokeArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { revoke(&app, &arguments).await })
}

async fn revoke(app: &App, RevokeArguments { ids, terminate }: &RevokeArguments) -> Outcome {
    // Look before the request is sent: a terminated call is no longer running.
    let seen = match Control::new(app.broker().await?).find(ids).await {
        Err(error) if error.is_unknown() || error.is_timeout() => FoundCalls::default(),
        seen => seen?,
    };
    for id in ids {
        let ended = ended(app, id).await;
        match terminate {
            true => app.terminate(id).await?,
            false => app.revoke(id).await?,
        }
        output::data(said(id, *terminate, ended.as_ref(), &seen))?;
    }
    Ok(())
}

/// Returns the final state of a call, if it has one and results are stored.
async fn ended(app: &App, id: &str) -> Option<State> {
    if is_sent_to_caller_only(app) {
        return None;
    }
    let record = app.backend().await.ok()?.fetch(id).await.ok()??;
    record.state.is_ready().then_some(record.state)
}

/// Describes a call that was just revoked.
fn said(id: &str, terminate: bool, ended: Option<&State>, seen: &FoundCalls) -> String {
    if let Some(state) = ended {
        return format!("{id} had ended already: {state}");
    }
    match (seen.running.get(id), terminate) {
        (Some(running), true) => format!("{id} {}, and was asked to stop", on(running)),
        (Some(running), false) => format!("{id} {}, and was notified; --terminate stops it", on(running)),
        (None, _) => {
            let workers = match seen.workers {
                0 => "no worker replied".to_owned(),
                _ => "no worker that replied runs it".to_owned(),
            };
            let kept = humantime::format_duration(Register::Revoked.max_lifetime());
            format!(
                "{id} is recorded as revoked for {kept}: {workers}, and it will not be run if it waits in a queue"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Running;

    #[test]
    fn what_is_known_is_said() {
        let running = Running { worker: "w@h".into(), task: "t".into(), since: None };
        let seen = FoundCalls { workers: 2, running: [("a".to_owned(), running)].into() };
        assert_eq!(said("a", true, None, &seen), "a is running on w@h, and was asked to stop");
        assert_eq!(said("a", false, Some(&State::Success), &seen), "a had ended already: SUCCESS");
        let none = said("nonsense", false, None, &seen);
        assert!(
            none.contains("recorded as revoked for 7days") && none.contains("no worker that replied"),
            "{none}"
        );
    }
}
