//! Passes the reports of running calls on to the result backend and to events. A tight loop causes no flood: of reports in
//! quick succession only the last one is written, and it is written before the final state.

use std::time::Duration;

use chrono::Utc;
use serde_json::json;
use serde_json::value::to_raw_value;

use super::settler::Settler;
use crate::backend::ResultRecord;
use crate::message::headers::format_time;
use crate::runtime::admission::request::Request;
use crate::state::State;
use crate::task::Context;
use crate::task::reports::Report;
use crate::tracing;

/// The pause between two reports of one call.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the last report may hold up the final state.
const LAST: Duration = Duration::from_secs(5);

/// Whether reports go to the result backend. Events have them in any case.
#[derive(Clone, Copy, PartialEq)]
enum Stored {
    Yes,
    No,
}

impl Settler {
    /// Runs a call, and writes its reports meanwhile. A report that cannot be written is dropped: the call does not wait
    /// for it.
    pub(crate) async fn reporting<T>(&self, request: &Request, run: impl Future<Output = T>) -> T {
        let stored = match !request.plain && self.wants_result(request) {
            true => Stored::Yes,
            false if self.reporter.wants_calls() => Stored::No,
            false => return run.await,
        };
        let context = &request.context;
        if stored == Stored::Yes && request.options.track_started.unwrap_or(self.app.config().track_started) {
            context.reports().put(self.started());
        }
        with_reports(context, |report| self.write(context, report, stored), run).await
    }

    fn started(&self) -> Report {
        let (pid, hostname) = (std::process::id(), &self.worker);
        let meta = json!({ "pid": pid, "hostname": hostname, "started_at": format_time(Utc::now()) });
        Report { state: State::Started, meta: to_raw_value(&meta).expect("an object of texts") }
    }

    async fn write(&self, context: &Context, report: Report, stored: Stored) {
        self.reporter.reported(context, &report);
        if stored == Stored::No {
            return;
        }
        let Report { state, meta } = report;
        let record = ResultRecord {
            worker: Some(self.worker.clone()),
            retries: Some(context.retries()),
            ..ResultRecord::report(context.id(), state, meta)
        };
        if let Err(error) = self.backend.store(&record, context.properties().reply_to.as_deref()).await {
            let (id, state) = (context.id(), record.state);
            tracing::debug!(id, %state, error = format!("{error:#}"), "cannot write a report");
        }
    }
}

/// Runs a call, and passes its reports on.
async fn with_reports<T, W: Future<Output = ()>>(
    context: &Context,
    write: impl Fn(Report) -> W,
    run: impl Future<Output = T>,
) -> T {
    let reports = context.reports();
    let write_latest = || async {
        if let Some((number, report)) = reports.unwritten() {
            write(report).await;
            reports.written(number);
        }
    };
    let write_all = async {
        loop {
            reports.news().await;
            write_latest().await;
            tokio::time::sleep(PAUSE).await;
        }
    };
    let ended = tokio::select! {
        biased;
        ended = run => ended,
        () = write_all => unreachable!("it writes for ever"),
    };
    // Once a call has ended, there is no use in reporting its start.
    if reports.unwritten().is_some_and(|(_, report)| report.state != State::Started)
        && tokio::time::timeout(LAST, write_latest()).await.is_err()
    {
        tracing::debug!(id = context.id(), "the last report of a call was not written in time");
    }
    ended
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_tight_loop_floods_nobody_and_its_last_report_is_written() {
        let context = Context::detached();
        let written = Mutex::new(Vec::new());
        let begun = Instant::now();
        let write = |report: Report| {
            written.lock().expect("fine").push(report.meta.get().to_owned());
            std::future::ready(())
        };
        let run = async {
            for n in 0..=100_000 {
                context.progress(n, 100_000, "counting");
                if n % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            context.set_state("DONE", "the end").expect("a good name");
        };
        with_reports(&context, write, run).await;
        let most = begun.elapsed().as_millis() / PAUSE.as_millis() + 2;
        let written = written.into_inner().expect("fine");
        assert!(written.len() as u128 <= most, "{} reports, at most {most}", written.len());
        assert_eq!(written.last().map(String::as_str), Some("\"the end\""));
    }

    #[tokio::test]
    async fn a_call_that_has_ended_is_not_reported_as_started() {
        let context = Context::detached();
        let started = || Report { state: State::Started, meta: serde_json::value::RawValue::NULL.to_owned() };
        let written = Mutex::new(0);
        let write = |_: Report| {
            *written.lock().expect("fine") += 1;
            std::future::ready(())
        };
        context.reports().put(started());
        with_reports(&context, &write, async {}).await;
        assert_eq!(*written.lock().expect("fine"), 0, "it has ended at once");
        context.reports().put(started());
        with_reports(&context, &write, tokio::time::sleep(Duration::from_millis(20))).await;
        assert_eq!(*written.lock().expect("fine"), 1);
    }

    #[test]
    fn the_states_of_the_worker_are_its_own() {
        let context = Context::detached();
        for (name, part) in [
            ("SUCCESS", "the worker sets it"),
            ("RETRY", "the worker sets it"),
            ("", "empty"),
            ("A B", "spaces"),
            (&*"X".repeat(51), "50"),
        ] {
            let error = context.set_state(name, ()).expect_err(name);
            assert!(error.is_config() && error.to_string().contains(part), "{error}");
        }
        assert!(context.set_state("UPLOADING", 1).is_ok() && context.set_state("PROGRESS", 1).is_ok());
    }
}
