//! `mq-worker beat`: a scheduler on its own.

use super::arguments::{BeatArguments, CommonArguments};
use super::exit::{Failure, Outcome};
use super::signals::Signals;
use super::{settings, shim};
use crate::app::App;
use crate::beat::Beat;
use crate::task::Registry;
use crate::tracing::info;

pub(super) fn run(arguments: &BeatArguments, common: &CommonArguments) -> Outcome {
    let loaded = settings::load_at(common, arguments.package.app.as_deref());
    // Schedules of tasks are in the crate; without a crate, only those of the file and those added by hand are left.
    if Registry::collect()?.is_empty() && shim::has_crate(&arguments.package) {
        return shim::exec_worker(&arguments.package, loaded.map(|loaded| loaded.config));
    }
    let config = loaded?.config;
    if config.broker_url.scheme() == "memory" {
        return Err(Failure::usage(
            "memory:// exists within one process only: no worker would get what this scheduler sends; name the broker with \
             --broker or MQ_BROKER_URL",
        ));
    }
    let app = settings::application(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("mq-worker")
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the async runtime: {error}")))?;
    let outcome = runtime.block_on(beat(app));
    runtime.shutdown_background();
    outcome
}

async fn beat(app: App) -> Outcome {
    let mut signals =
        Signals::listen().map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))?;
    let beat = Beat::new(app.clone())?;
    let handle = beat.handle();
    info!(broker = %app.config().broker_url, "scheduler ready");
    let mut running = std::pin::pin!(beat.run());
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = &mut running => {
                ended?;
                let _ = tokio::time::timeout(std::time::Duration::from_secs(5), app.close()).await;
                return Ok(());
            }
            signal = signals.next() => {
                if stopping && signal.escalates {
                    return Err(Failure::silent(signal.code));
                }
                info!(signal = signal.name, "stopping");
                stopping = true;
                handle.stop();
            }
        }
    }
}
