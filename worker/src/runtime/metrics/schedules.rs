//! The metrics of the scheduler in a worker.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::app::schedules::Figures;

/// Upper bounds in seconds: a takeover takes up to 5 s, and anything later than 30 s was missed.
const LATE: [f64; 10] = [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 300.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    schedule: String,
    outcome: &'static str,
}

/// Due times, how late they are, and whether this scheduler leads.
#[derive(Debug)]
pub(super) struct ScheduleMetrics {
    calls: Family<CallLabels, Counter>,
    late: Histogram,
    leads: Gauge,
}

impl Default for ScheduleMetrics {
    fn default() -> Self {
        Self { calls: Family::default(), late: Histogram::new(LATE), leads: Gauge::default() }
    }
}

impl ScheduleMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "schedule_calls",
            "Due times of schedules that this scheduler dealt with, by schedule and outcome",
            self.calls.clone(),
        );
        registry.register(
            "schedule_late_seconds",
            "How late calls of schedules were sent, jitter not counted",
            self.late.clone(),
        );
        registry.register(
            "schedules_leader",
            "1 while the scheduler of this process leads",
            self.leads.clone(),
        );
    }

    pub(super) fn set(&self, figures: &Figures) {
        self.leads.set(figures.leads.into());
        for ((schedule, outcome), count) in &figures.calls {
            let labels = CallLabels { schedule: schedule.clone(), outcome };
            let counter = self.calls.get_or_create(&labels);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        figures.late.iter().for_each(|late| self.late.observe(late.as_secs_f64()));
    }
}
