//! Rates and latencies of the last hour, as charts.

use std::time::Duration;

use maud::{Markup, html};

use super::chart::{Line, lines};
use super::parts::span;
use crate::dashboard::state::State;
use crate::history::{Point, RateQuery};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The charts of all queues, or of one. Empty if nothing has run.
pub(crate) async fn charts(state: &State, queue: Option<&str>) -> Markup {
    let query =
        RateQuery { queue: queue.map(ToOwned::to_owned), window: HOUR, step: MINUTE, ..RateQuery::default() };
    let Ok(points) = state.history.rates(query).await else { return html! {} };
    let is_quiet =
        |point: &Point| point.counts.started == 0 && point.counts.succeeded == 0 && point.counts.failed == 0;
    if points.iter().all(is_quiet) {
        return html! {};
    }
    let of = |value: fn(&Point) -> f64| points.iter().map(value).collect::<Vec<f64>>();
    let seconds = |value: Option<f64>| value.unwrap_or(f64::NAN);
    let succeeded = of(|point| point.counts.succeeded as f64);
    let failed = of(|point| {
        (point.counts.failed + point.counts.dead_lettered.saturating_sub(point.counts.failed)) as f64
    });
    let retried = of(|point| point.counts.retried as f64);
    let (p50, p95): (Vec<f64>, Vec<f64>) =
        points.iter().map(|point| (seconds(point.counts.run_p50), seconds(point.counts.run_p95))).unzip();
    let (wait50, wait95): (Vec<f64>, Vec<f64>) =
        points.iter().map(|point| (seconds(point.counts.wait_p50), seconds(point.counts.wait_p95))).unzip();
    let rate = |value: f64| format!("{value:.0}");
    html! {
        div.charts {
            (lines("Tasks per minute", &[
                Line { name: "succeeded", tone: "good", values: &succeeded },
                Line { name: "retried", tone: "second", values: &retried },
                Line { name: "failed", tone: "bad", values: &failed },
            ], rate, "1 h ago"))
            (lines("Run time", &[
                Line { name: "p95", tone: "second", values: &p95 },
                Line { name: "p50", tone: "first", values: &p50 },
            ], span, "1 h ago"))
            (lines("Time in queue", &[
                Line { name: "p95", tone: "second", values: &wait95 },
                Line { name: "p50", tone: "first", values: &wait50 },
            ], span, "1 h ago"))
        }
    }
}
