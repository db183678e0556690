//! `mq-worker schedules`: lists, shows and changes schedules.

use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde_json::json;

use super::arguments::{
    AddArguments, CommonArguments, EditArguments, ScheduledCallArguments, SchedulesCommand, TimingArguments,
};
use super::exit::{Failure, Outcome};
use super::{operate, output, pause};
use crate::admin::schedules;
use crate::app::schedules::{Origin, ScheduledRun};
use crate::app::{App, ScheduleInfo};
use crate::schedule::{Schedule, Timing};
use crate::show::one_line;

/// The maximum width of an expression in the list.
const WIDTH: usize = 40;

pub(super) fn run(command: SchedulesCommand, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { act(&app, command).await })
}

async fn act(app: &App, command: SchedulesCommand) -> Outcome {
    let all = app.schedules();
    match command {
        SchedulesCommand::List { json } => list(app, json).await,
        SchedulesCommand::Show { name, json } => {
            show(&there(schedules::find(app, &name).await?, &name)?, json)
        }
        SchedulesCommand::Next { name, count, json } => next(&get(app, &name).await?.schedule, count, json),
        SchedulesCommand::Add(arguments) => add(app, arguments).await,
        SchedulesCommand::Edit(arguments) => edit(app, arguments).await,
        SchedulesCommand::Pause { name, until } => {
            all.pause(&name, until).await?;
            output::data(format!("schedule `{name}` is paused until {}", pause::end(until)))
        }
        SchedulesCommand::Resume { name } => {
            all.resume(&name).await?;
            output::data(format!("schedule `{name}` is resumed"))
        }
        SchedulesCommand::Run { name } => output::data(all.run(&name).await?),
        SchedulesCommand::Remove { name } => {
            all.remove(&name).await?;
            output::data(match all.get(&name).await? {
                None => format!("schedule `{name}` is removed"),
                Some(found) => {
                    format!("schedule `{name}` is back to its definition {}", place(&found.origin))
                }
            })
        }
    }
}

async fn get(app: &App, name: &str) -> Outcome<ScheduleInfo> {
    there(app.schedules().get(name).await?, name)
}

fn there(found: Option<ScheduleInfo>, name: &str) -> Outcome<ScheduleInfo> {
    found.ok_or_else(|| {
        Failure::failed(format!(
            "there is no schedule `{name}`; `mq-worker schedules list` lists all of them"
        ))
    })
}

async fn list(app: &App, json: bool) -> Outcome {
    let found = schedules::list(app).await?;
    if json {
        return output::json(&found);
    }
    if found.is_empty() {
        output::note(format!("no schedules on {}", app.config().broker_url));
        return Ok(());
    }
    let rows = found.iter().map(|found| {
        let next = match (found.paused, found.next) {
            (true, _) => "paused".to_owned(),
            (false, Some(next)) => local(next),
            (false, None) => "-".to_owned(),
        };
        vec![
            found.schedule.name.clone(),
            if found.has_no_worker() {
                format!("{} (no worker)", found.schedule.task)
            } else {
                found.schedule.task.clone()
            },
            one_line(&found.schedule.timing.to_string(), WIDTH),
            next,
            found.runs.first().map_or_else(|| "-".into(), |last| local(last.due)),
            found.runs.first().map_or_else(|| "-".into(), |last| outcome(last).to_owned()),
            found.origin.as_str().to_owned(),
        ]
    });
    output::table(&["name", "task", "when", "next", "last", "outcome", "from"], rows.collect(), 7)
}

fn show(found: &ScheduleInfo, json: bool) -> Outcome {
    if json {
        return output::json(found);
    }
    let ScheduleInfo { schedule, .. } = found;
    let mut lines = vec![
        ("name", schedule.name.clone()),
        (
            "task",
            format!(
                "{}{}",
                schedule.task,
                if found.has_no_worker() { ", which no running worker has" } else { "" }
            ),
        ),
        ("when", schedule.timing.to_string()),
        ("written", place(&found.origin).to_owned()),
    ];
    if !found.overrules.is_empty() {
        let others: Vec<&str> = found.overrules.iter().map(place).collect();
        lines.push(("overrules", format!("what is {}", others.join(" and "))));
    }
    if found.paused {
        lines.push(("paused", format!("until {}", pause::end(found.paused_until))));
    }
    if !schedule.args.is_empty() {
        lines.push(("args", json!(schedule.args).to_string()));
    }
    if !schedule.kwargs.is_empty() {
        lines.push(("kwargs", json!(schedule.kwargs).to_string()));
    }
    if !schedule.headers.is_empty() {
        lines.push(("headers", json!(schedule.headers).to_string()));
    }
    if let Some(queue) = &schedule.queue {
        lines.push(("queue", queue.clone()));
    }
    if let Some(expires) = schedule.expires {
        lines.push(("expires", format!("after {}", humantime::format_duration(expires))));
    }
    lines.push(("overlap", schedule.overlap.as_str().into()));
    lines.push(("catch up", schedule.catch_up.as_str().into()));
    if !schedule.jitter.is_zero() {
        lines.push(("jitter", humantime::format_duration(schedule.jitter).to_string()));
    }
    lines.push(("next", found.next.map_or_else(|| "never".into(), local)));
    for (number, run) in found.runs.iter().enumerate() {
        let by_hand = if run.by_hand { ", by hand" } else { "" };
        let error = run.outcome.as_ref().and_then(|outcome| outcome.error.as_deref());
        let error = error.map_or_else(String::new, |error| format!(": {}", one_line(error, 200)));
        let text = format!("{}{by_hand}, task id {}, {}{error}", local(run.due), run.id, outcome(run));
        lines.push((if number == 0 { "last" } else { "" }, text));
    }
    if let Some(waiting) = found.waiting {
        lines.push(("waiting", format!("{}, for the previous call to end", local(waiting))));
    }
    let lines: Vec<String> = lines.into_iter().map(|(name, value)| format!("{name:<10} {value}")).collect();
    output::data(lines.join("\n"))
}

fn next(schedule: &Schedule, count: u16, json: bool) -> Outcome {
    let mut last = Utc::now();
    let mut times = Vec::new();
    while times.len() < usize::from(count)
        && let Some(due) = schedule.timing.next_after(last)
    {
        times.push(due);
        last = due;
    }
    if json {
        return output::json(&times);
    }
    if times.is_empty() {
        output::note(format!("schedule `{}` is never due again", schedule.name));
        return Ok(());
    }
    let lines: Vec<String> = times.into_iter().map(local).collect();
    output::data(lines.join("\n"))
}

async fn add(app: &App, arguments: AddArguments) -> Outcome {
    let AddArguments { name, task, timing, call, replace } = arguments;
    let Some(timing) = given(timing)? else {
        return Err(Failure::usage(format!(
            "schedule `{name}` would never be due: give it --cron, --every or --at"
        )));
    };
    let known = app.schedules().get(&name).await?;
    if let Some(known) = known.filter(|known| known.origin == Origin::Hand && !replace) {
        return Err(Failure::failed(format!(
            "there is a schedule `{name}` already, of task `{}`: change it with `schedules edit`, or replace it with \
             --replace",
            known.schedule.task
        )));
    }
    put(app, with(Schedule::new(name, task, timing), call)?).await
}

async fn edit(app: &App, arguments: EditArguments) -> Outcome {
    let EditArguments { name, task, timing, call } = arguments;
    let mut schedule = get(app, &name).await?.schedule;
    if let Some(task) = task {
        schedule.task = task;
    }
    let TimingArguments { cron, tz, every, at } = timing;
    // A zone alone applies to the existing expression.
    let cron = cron.or_else(|| tz.as_ref().and_then(|_| schedule.timing.as_cron().map(str::to_owned)));
    let tz = tz.or_else(|| cron.as_ref().and_then(|_| schedule.timing.zone().map(str::to_owned)));
    if let Some(timing) = given(TimingArguments { cron, tz, every, at })? {
        schedule.timing = timing;
    }
    put(app, with(schedule, call)?).await
}

async fn put(app: &App, schedule: Schedule) -> Outcome {
    let Schedule { name, task, .. } = schedule.clone();
    app.schedules().put(schedule).await?;
    let found = app.schedules().get(&name).await?;
    let next = found.and_then(|found| found.next).map_or_else(|| "never".into(), local);
    output::data(format!("schedule `{name}`: next at {next}"))?;
    if let Some(problem) = schedules::complaint(app, &task).await {
        output::note(format!("warning: {problem}"));
    }
    Ok(())
}

fn given(timing: TimingArguments) -> Outcome<Option<Timing>> {
    let TimingArguments { cron, tz, every, at } = timing;
    let timing = match (cron, every, at) {
        (Some(cron), ..) => Timing::cron(&cron)?,
        (_, Some(every), _) => Timing::every(every)?,
        (_, _, Some(at)) => Timing::at(at),
        (None, None, None) if tz.is_some() => {
            return Err(Failure::usage("--tz is the time zone of --cron, which is not given"));
        }
        (None, None, None) => return Ok(None),
    };
    Ok(Some(match tz {
        Some(zone) => timing.in_zone(&zone)?,
        None => timing,
    }))
}

/// Returns the schedule with the given options applied.
fn with(mut schedule: Schedule, call: ScheduledCallArguments) -> Outcome<Schedule> {
    let ScheduledCallArguments { args, kwargs, headers, queue, expires, overlap, catch_up, jitter } = call;
    let unreadable = |error: serde_json::Error| Failure::usage(format!("this is not JSON: {error}"));
    if let Some(args) = args {
        schedule.args = serde_json::from_str(args.0.get()).map_err(unreadable)?;
    }
    if let Some(kwargs) = kwargs {
        schedule.kwargs = serde_json::from_str(kwargs.get()).map_err(unreadable)?;
    }
    if let Some(headers) = headers {
        schedule.headers = serde_json::from_str(headers.get()).map_err(unreadable)?;
    }
    schedule.queue = queue.or(schedule.queue);
    schedule.expires = expires.or(schedule.expires);
    schedule.overlap = overlap.map_or(schedule.overlap, Into::into);
    schedule.catch_up = catch_up.map_or(schedule.catch_up, Into::into);
    schedule.jitter = jitter.unwrap_or(schedule.jitter);
    Ok(schedule)
}

/// The outcome of a call.
fn outcome(run: &ScheduledRun) -> &str {
    run.outcome.as_ref().map_or("not known", |outcome| &outcome.state)
}

/// A time in the local time zone.
fn local(time: DateTime<Utc>) -> String {
    time.with_timezone(&Local).to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn place(origin: &Origin) -> &'static str {
    match origin {
        Origin::Code => "at its task in the code",
        Origin::File => "in mq-worker.toml",
        Origin::Hand => "by hand",
    }
}
