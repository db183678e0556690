//! `mq-worker stop WORKER…`: asks workers to finish their running tasks and exit, and waits until they have.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Map;

use super::arguments::{CommonArguments, StopArguments};
use super::exit::{Failure, Outcome, TIME_IS_UP};
use super::operate::{self, counted};
use super::output;
use crate::app::App;
use crate::control::{Control, WorkerInfo};

pub(super) fn run(arguments: StopArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { stop(&app, arguments).await })
}

async fn stop(app: &App, StopArguments { workers: names, all, timeout, no_wait }: StopArguments) -> Outcome {
    let url = &app.config().broker_url;
    let control = Control::new(app.broker().await?);
    let answering = control.workers().await?;
    let known = || {
        let names: BTreeSet<&str> = answering.iter().map(|worker| worker.name.as_str()).collect();
        if names.is_empty() {
            "none answers".into()
        } else {
            names.into_iter().collect::<Vec<_>>().join(", ")
        }
    };
    if names.is_empty() && !all {
        return Err(Failure::usage(format!("name the workers to stop, or use --all; on {url}: {}", known())));
    }
    // Check all names before stopping any: a mistyped name stops no worker.
    let missing: Vec<&str> =
        names.iter().filter(|name| answering.iter().all(|w| w.name != **name)).map(String::as_str).collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(Failure::failed(format!("no worker named {missing} replied; on {url}: {}", known())));
    }
    let chosen: Vec<WorkerInfo> = answering.into_iter().filter(|w| all || names.contains(&w.name)).collect();
    if chosen.is_empty() {
        output::note(format!("no worker replied on {url}"));
        return Ok(());
    }
    let shared: BTreeSet<&str> = chosen
        .iter()
        .map(|worker| worker.name.as_str())
        .filter(|name| chosen.iter().filter(|worker| worker.name == **name).count() > 1)
        .collect();
    for name in &shared {
        let count = chosen.iter().filter(|worker| worker.name == *name).count();
        output::note(format!(
            "{count} workers are called {name}: all of them stop; use --hostname to give each its own name"
        ));
    }
    control.to(chosen.iter().map(|worker| &worker.name)).tell("shutdown", Map::new()).await?;
    if no_wait {
        return output::data(format!("{} asked to stop", counted(chosen.len() as u64, "worker")));
    }
    let limit = timeout.unwrap_or(Duration::from_secs(60));
    let left = control.wait_until_gone(&chosen, Some(limit)).await?;
    for worker in chosen.iter().filter(|worker| !left.contains(worker)) {
        match worker.pid.filter(|_| shared.contains(worker.name.as_str())) {
            Some(pid) => output::data(format!("{} (process {pid}) stopped", worker.name))?,
            None => output::data(format!("{} stopped", worker.name))?,
        }
    }
    if chosen.len() > 1 {
        let gone = (chosen.len() - left.len()) as u64;
        output::note(format!("{} stopped", counted(gone, "worker")));
    }
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = left.iter().map(|worker| worker.name.as_str()).collect();
    let limit = humantime::format_duration(limit);
    Err(Failure::new(TIME_IS_UP, format!("still running after {limit}: {}", names.join(", "))))
}
