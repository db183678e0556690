//! `mq-worker` without a command: the worker.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::arguments::{CommonArguments, LogFormat, WorkerArguments};
use super::exit::{Failure, Outcome};
use super::signals::Signals;
use super::{banner, logging, settings, shim};
use crate::app::App;
use crate::beat::Beat;
use crate::runtime::{Worker, run_isolated};
use crate::task::Registry;
use crate::tracing::{error, info, warn};

/// Blocking threads in addition to those of tasks: file access and name resolution of the runtime itself.
const SPARE_THREADS: usize = 16;

/// Timeout for closing the broker: it must not block the exit.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn run(arguments: &WorkerArguments, common: &CommonArguments) -> Outcome {
    let config = settings::load_for_worker(common, arguments);
    if Registry::collect()?.is_empty() {
        return shim::exec_worker(&arguments.package, config);
    }
    let config = config?;
    let (concurrency, app) = (config.worker.concurrency, settings::application(config)?);
    // Before `run_isolated`, which takes over the process of an isolated task: it prints too.
    #[cfg(unix)]
    super::streams::shield();
    run_isolated();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("mq-worker")
        .max_blocking_threads(concurrency + SPARE_THREADS)
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the async runtime: {error}")))?;
    let format = logging::format(common)?;
    let outcome = runtime.block_on(async {
        #[cfg(feature = "dashboard")]
        let _dashboard = match arguments.dashboard {
            None => None,
            Some(listen) => Some(super::dashboard::beside_worker(app.clone(), listen).await?),
        };
        work(app, format).await
    });
    // A blocking task that does not return must not keep the process alive: its message goes back to the queue.
    runtime.shutdown_background();
    outcome
}

async fn work(app: App, format: LogFormat) -> Outcome {
    // Listen first, so that a signal that arrives while connecting is not missed.
    let mut signals =
        Signals::listen().map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))?;
    let worker = Worker::new(app.clone())?;
    banner::show(&app, worker.queues(), format);
    let handle = worker.handle();
    let beat = if app.config().worker.beat { Some(Beat::new(app.clone())?) } else { None };
    let scheduler = beat.as_ref().map(Beat::handle);
    // Waits for an unreachable broker, as the worker does; an error of the scheduler does not stop the worker.
    let beating = beat.map(|beat| {
        AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = beat.run().await {
                error!(error = format!("{error:#}"), "the scheduler has stopped");
            }
        }))
    });
    // On the runtime's own threads: polled here, each delivery would cost a switch to the main thread.
    let mut running = AbortOnDropHandle::new(tokio::spawn(worker.run()));
    let mut stopped_by = None;
    let mut times = 0;
    let ended = loop {
        let signal = tokio::select! {
            ended = &mut running => break ended,
            signal = signals.next() => signal,
        };
        if !signal.escalates {
            if !handle.is_stopping() {
                info!(signal = signal.name, "stopping: running tasks may finish");
                handle.stop();
            }
            continue;
        }
        times += 1;
        match times {
            1 => {
                let grace = humantime::format_duration(app.config().worker.grace).to_string();
                info!(
                    signal = signal.name,
                    grace, "stopping: running tasks may finish; repeat to stop at once"
                );
                handle.stop();
            }
            2 => {
                warn!(signal = signal.name, "stopping at once: running tasks are requeued");
                stopped_by = Some(signal.code);
                handle.stop_now();
            }
            // A third signal exits at once. The broker redelivers unsettled messages.
            _ => std::process::exit(signal.code.into()),
        }
    };
    if let (Some(scheduler), Some(beating)) = (scheduler, beating) {
        scheduler.stop();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, beating).await;
    }
    if tokio::time::timeout(CLOSE_TIMEOUT, app.close()).await.is_err() {
        warn!(broker = %app.config().broker_url, "timed out closing the connection to the broker");
    }
    let summary = match ended {
        Ok(summary) => summary?,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    };
    let (succeeded, failed) = (summary.succeeded, summary.failed);
    info!(succeeded, failed, retried = summary.retried, requeued = summary.requeued, "stopped");
    stopped_by.map_or(Ok(()), |code| Err(Failure::silent(code)))
}
