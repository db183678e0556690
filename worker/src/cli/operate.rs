//! Runs an operating command: opens the broker, does one thing and closes the broker.

use std::future::Future;
use std::time::Duration;

use super::arguments::CommonArguments;
use super::exit::{Failure, Outcome};
use super::settings;
pub(super) use crate::admin::queue;
use crate::app::App;
use crate::connection::BrokerUrl;
#[cfg(feature = "sqlite")]
use crate::connection::sqlite;
pub(super) use crate::show::counted;

/// Timeout for closing the broker, which flushes the last acks: an unreachable broker must not block the exit.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs one command against the configured broker.
pub(super) fn run<F>(common: &CommonArguments, command: impl FnOnce(App) -> F) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let config = settings::load(common)?;
    if config.broker_url.scheme() == "memory" {
        return Err(Failure::usage(
            "memory:// exists within one process only: other processes can neither read it nor send to it; name the broker \
             with --broker or MQ_BROKER_URL",
        ));
    }
    must_exist(&config.broker_url)?;
    let app = settings::application(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the async runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        let outcome = command(app.clone()).await;
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, app.close()).await;
        match (outcome, closed) {
            (Ok(()), Err(_)) => {
                let broker = &app.config().broker_url;
                Err(Failure::new(super::exit::UNAVAILABLE, format!("{broker} did not confirm the last step")))
            }
            (outcome, _) => outcome,
        }
    });
    runtime.shutdown_background();
    outcome
}

/// Fails if a SQLite database does not exist: creating one for a mistyped path would show it as healthy and empty.
#[cfg_attr(not(feature = "sqlite"), allow(unused_variables))]
pub(super) fn must_exist(url: &BrokerUrl) -> Outcome {
    #[cfg(feature = "sqlite")]
    if url.scheme() == "sqlite" {
        sqlite::must_exist(url)?;
    }
    Ok(())
}
