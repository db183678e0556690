//! The configuration with the flags of the command line applied.

use std::path::Path;

use super::arguments::{CommonArguments, WorkerArguments};
use super::exit::{Failure, Outcome};
use crate::app::config::origins::Loaded;
use crate::app::config::value::{self, Problem, redacted_address};
use crate::app::{App, Config};
use crate::connection::BrokerUrl;

/// Loads environment, file and defaults (or what the program has set in code), and applies the flags that every
/// command takes.
pub(super) fn load(common: &CommonArguments) -> Outcome<Config> {
    Ok(load_at(common, None)?.config)
}

/// Like [`load`], with the origin of each setting, for the crate in directory `app`: its configuration is found from
/// there, wherever the command was started.
pub(super) fn load_at(common: &CommonArguments, app: Option<&Path>) -> Outcome<Loaded> {
    let mut loaded = match App::installed() {
        None => Config::load_at(app)?,
        Some(app) if common.broker.is_none() && common.result_backend.is_none() => {
            Loaded::in_code(app.config().clone())
        }
        Some(_) => {
            return Err(Failure::usage(
                "this program sets its broker in code: --broker and --result-backend cannot change it",
            ));
        }
    };
    let config = &mut loaded.config;
    if let Some(text) = &common.broker {
        config.broker_url = address("--broker", text, value::broker)?;
        loaded.origins.insert("MQ_BROKER_URL", "--broker".into());
    }
    // The default, too, may be a broker that this build does not support.
    address("the broker", config.broker_url.expose(), value::broker)?;
    if let Some(text) = &common.result_backend {
        config.result_backend = Some(address("--result-backend", text, value::result_backend)?);
        loaded.origins.insert("MQ_RESULT_BACKEND", "--result-backend".into());
    }
    loaded.config = loaded.config.with_absolute_paths();
    Ok(loaded)
}

/// Like [`load`], with the flags of a worker.
pub(super) fn load_for_worker(common: &CommonArguments, arguments: &WorkerArguments) -> Outcome<Config> {
    let mut config = load_at(common, arguments.package.app.as_deref())?.config;
    let worker = &mut config.worker;
    if !arguments.queues.is_empty() {
        worker.queues.clone_from(&arguments.queues);
    }
    let mut seen = std::collections::HashSet::new();
    worker.queues.retain(|queue| seen.insert(queue.clone()));
    worker.concurrency = arguments.concurrency.unwrap_or(worker.concurrency);
    worker.prefetch = arguments.prefetch.unwrap_or(worker.prefetch);
    worker.grace = arguments.grace.unwrap_or(worker.grace);
    worker.beat |= arguments.beat;
    worker.events |= arguments.events;
    worker.health = arguments.health.or(worker.health);
    worker.hostname = arguments.hostname.clone().or_else(|| worker.hostname.take());
    Ok(config)
}

fn address(flag: &str, text: &str, read: fn(&str) -> Result<BrokerUrl, Problem>) -> Outcome<BrokerUrl> {
    read(text).map_err(|problem| Failure::usage(format!("{flag} is `{}`: {problem}", redacted_address(text))))
}

/// Installs the application with this configuration, so that `.delay()` inside tasks uses it too.
pub(super) fn application(config: Config) -> Outcome<App> {
    Ok(match App::installed() {
        None => App::builder().config(config).install()?,
        Some(app) => app.reconfigured(config)?,
    })
}
