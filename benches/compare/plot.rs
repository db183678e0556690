//! The chart: the rates of all sides, one panel for each kind of work.

use std::fmt::Write;

use crate::plan::Comparison;

/// A title, and for each bar its label and the measurement.
type Panel = (&'static str, &'static [(&'static str, &'static str)]);

const PANELS: [Panel; 4] = [
    (
        "RabbitMQ: tasks run per second, each acknowledged after its run",
        &[
            ("lapin (raw client)", "amqp raw drain"),
            (OURS, "amqp drain"),
            ("apalis", "apalis drain"),
            ("rusty-celery", "rusty-celery drain"),
            ("Celery", "celery drain"),
            ("Dramatiq", "dramatiq drain"),
        ],
    ),
    (
        "RabbitMQ: tasks enqueued per second, 64 at a time",
        &[
            ("lapin (raw client)", "amqp raw enqueue 64"),
            (OURS, "amqp enqueue 64"),
            ("rusty-celery (unconfirmed)", "rusty-celery enqueue"),
            ("Dramatiq (unconfirmed)", "dramatiq enqueue"),
            ("Celery (unconfirmed)", "celery enqueue"),
            ("apalis (unconfirmed, in memory)", "apalis enqueue"),
        ],
    ),
    (
        "SQLite: tasks run per second",
        &[("the broker alone", "sqlite broker drain"), (OURS, "sqlite drain"), ("huey", "huey drain")],
    ),
    (
        "SQLite: tasks enqueued per second, synced to disk",
        &[
            ("rusqlite, batches of 100", "sqlite raw enqueue"),
            (OURS, "sqlite enqueue 64"),
            ("huey", "huey enqueue"),
        ],
    ),
];
const OURS: &str = "mq-worker";

const WIDTH: f64 = 760.0;
/// Where bars begin; their labels end before it.
const LEFT: f64 = 230.0;
/// Room for the figure behind the longest bar.
const RIGHT: f64 = 70.0;
const LINE: f64 = 24.0;
const OURS_COLOUR: &str = "#2b8a3e";
const OTHERS_COLOUR: &str = "#868e96";

/// An SVG that needs no style sheet and is readable on light and dark pages. What was not measured is left out.
pub(crate) fn chart(comparison: &Comparison) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for (title, bars) in PANELS {
        let bars: Vec<(&str, f64)> =
            bars.iter().filter_map(|(label, name)| Some((*label, comparison.rate(name)?))).collect();
        let longest = bars.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        if bars.is_empty() {
            continue;
        }
        y += LINE;
        let _ = writeln!(body, "<text x=\"{LEFT}\" y=\"{:.0}\" font-weight=\"bold\">{title}</text>", y - 4.0);
        for (label, rate) in bars {
            let length = (WIDTH - LEFT - RIGHT) * rate / longest;
            let colour = if label == OURS { OURS_COLOUR } else { OTHERS_COLOUR };
            let _ = writeln!(
                body,
                "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{label}</text>\
                 <rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{length:.1}\" height=\"18\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{text:.0}\">{:.1}k</text>",
                LEFT - 8.0,
                y + 3.0,
                LEFT + length + 6.0,
                rate / 1000.0,
                text = y + 17.0,
            );
            y += LINE;
        }
        y += LINE / 2.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" font-family=\"sans-serif\" \
         font-size=\"13\" fill=\"#777\">\n{body}</svg>\n"
    )
}
