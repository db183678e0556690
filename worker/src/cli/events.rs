//! `mq-worker events`: prints the events of workers and producers as they arrive.

use chrono::{DateTime, Local};
use serde_json::Map;

use super::arguments::{CommonArguments, EventsArguments};
use super::exit::{Failure, Outcome};
use super::{operate, output};
use crate::app::App;
use crate::control::Control;
use crate::events::{Event, EventReader, EventStream};
use crate::message::Progress;

pub(super) fn run(arguments: EventsArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { follow(&app, &arguments).await })
}

async fn follow(app: &App, arguments: &EventsArguments) -> Outcome {
    let mut events = app.watch_events(EventReader::Live).await?;
    let control = Control::new(app.broker().await?);
    if arguments.enable {
        control.tell("enable_events", Map::new()).await?;
    }
    // Ask for heartbeats, so that every running worker is shown at once.
    control.tell("heartbeat", Map::new()).await?;
    output::note(format!("listening on {}; press Ctrl-C to stop", app.config().broker_url));
    let shown = tokio::select! {
        shown = show(&mut events, arguments.json) => shown,
        // The default action would end the process, and the broker would keep the queue for a minute.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    events.close().await;
    shown
}

async fn show(events: &mut EventStream, json: bool) -> Outcome {
    while let Some(batch) = events.next().await {
        for event in &batch.events {
            let line = match json {
                true => serde_json::to_string(event)
                    .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?,
                false => line(event),
            };
            output::data(line)?;
        }
        batch.done();
    }
    Err(Failure::failed("the broker closed the stream of events"))
}

/// An event on one line. Its contents are not trusted.
fn line(event: &Event) -> String {
    let nanos = (event.timestamp * 1e9).clamp(0.0, 9e18) as i64;
    let time = DateTime::from_timestamp_nanos(nanos).with_timezone(&Local).format("%H:%M:%S%.3f");
    let seconds = |value: f64| format!("{value:.3}s");
    let facts = [
        ("", event.uuid.clone()),
        ("", event.name.clone()),
        ("args", event.args.clone()),
        ("kwargs", event.kwargs.clone().filter(|kwargs| kwargs != "{}")),
        ("", event.state.clone()),
        ("", said(event)),
        ("queue", event.queue.clone()),
        ("attempt", event.attempt.filter(|attempt| *attempt > 1).map(|attempt| attempt.to_string())),
        ("wait", event.wait.map(seconds)),
        ("runtime", event.runtime.map(seconds)),
        ("result", event.result.clone()),
        ("exception", event.exception.clone()),
        ("reason", event.reason.clone()),
        ("delay", event.delay.map(seconds)),
        ("active", event.active.map(|active| active.to_string())),
        ("processed", event.processed.map(|processed| processed.to_string())),
        ("dropped", event.dropped.map(|dropped| dropped.to_string())),
    ];
    let mut line = format!("{time} {} {}", event.hostname, event.kind);
    for (name, value) in facts {
        if let Some(value) = value {
            line.push(' ');
            if !name.is_empty() {
                line.push_str(name);
                line.push('=');
            }
            line.push_str(&value);
        }
    }
    output::one_line(&line, 4000)
}

/// The progress or description that a call reports.
fn said(event: &Event) -> Option<String> {
    let description = event.description.clone();
    match event.current {
        Some(current) => {
            let total = event.total.unwrap_or_default();
            Some(Progress::new(current, total, description.unwrap_or_default()).to_string())
        }
        None => description,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventKind;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let mut event = Event::new(EventKind::TaskFailed);
        event.hostname = "w@h".into();
        event.uuid = Some("a".into());
        event.exception = Some("bad\n\u{1b}[31mred".into());
        event.timestamp = f64::INFINITY;
        let line = line(&event);
        assert!(line.ends_with("w@h task-failed a exception=bad [31mred"), "{line}");
    }
}
