//! The form that adds or changes a schedule.

use chrono::SecondsFormat;
use maud::{Markup, html};
use serde_json::json;

use super::parts::hidden as fields_of;
use crate::dashboard::guard::Viewer;
use crate::schedule::{CatchUp, Overlap, Schedule};

/// A form that adds a schedule, or edits the given one.
pub(crate) fn form(viewer: &Viewer, schedule: Option<&Schedule>, is_hidden: bool) -> Markup {
    let text = |value: Option<String>| value.unwrap_or_default();
    let of = |field: fn(&Schedule) -> Option<String>| text(schedule.and_then(field));
    let time = |time: std::time::Duration| humantime::format_duration(time).to_string();
    let shown = |value: Option<String>| if is_hidden { String::new() } else { text(value) };
    let args = shown(schedule.filter(|it| !it.args.is_empty()).map(|it| json!(it.args).to_string()));
    let kwargs = shown(schedule.filter(|it| !it.kwargs.is_empty()).map(|it| json!(it.kwargs).to_string()));
    let (overlap, catch_up) =
        schedule.map_or_else(Default::default, |schedule| (schedule.overlap, schedule.catch_up));
    let (fields, back): (&[(&str, &str)], _) = match schedule {
        None => (&[("is_new", "true")], Some("/schedules")),
        Some(_) => (&[], None),
    };
    html! {
        form.edit method="post" action="/act" {
            (fields_of(viewer, "put-schedule", fields))
            @if let Some(back) = back { input type="hidden" name="back" value=(back); }
            label { "Name" input name="name" value=(of(|it| Some(it.name.clone()))) readonly[schedule.is_some()] required maxlength="200" spellcheck="false"; }
            label { "Task" input name="task" value=(of(|it| Some(it.task.clone()))) required spellcheck="false"; }
            p.note { "One of the next three:" }
            label { "Cron expression" input name="cron" value=(of(|it| it.timing.as_cron().map(str::to_owned))) placeholder="0 9 * * mon-fri" spellcheck="false"; }
            label { "… in this time zone" input name="tz" value=(of(|it| it.timing.zone().map(str::to_owned))) placeholder="UTC" spellcheck="false"; }
            label { "Interval" input name="every" value=(text(schedule.and_then(|it| it.timing.as_every()).map(time))) placeholder="10m" spellcheck="false"; }
            label { "Once, at" input name="at" value=(of(|it| it.timing.as_at().map(|at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true)))) placeholder="2027-01-31T12:00:00+01:00" spellcheck="false"; }
            @if is_hidden { p.note { "The arguments are hidden: they stay as they are unless you enter others." } }
            label { "Arguments, a JSON array" textarea name="args" rows="2" spellcheck="false" { (args) } }
            label { "Keyword arguments, a JSON object" textarea name="kwargs" rows="2" spellcheck="false" { (kwargs) } }
            label { "Queue" input name="queue" value=(of(|it| it.queue.clone())) placeholder="chosen by the routes" spellcheck="false"; }
            label { "Expires after" input name="expires" value=(text(schedule.and_then(|it| it.expires).map(time))) placeholder="never" spellcheck="false"; }
            label { "While the previous call waits or runs"
                select name="overlap" {
                    @for one in [Overlap::Allow, Overlap::Skip, Overlap::Queue] { option value=(one.as_str()) selected[one == overlap] { (one.as_str()) } }
                }
            }
            label { "Due times that were missed"
                select name="catch_up" {
                    @for one in [CatchUp::None, CatchUp::Last, CatchUp::All] { option value=(one.as_str()) selected[one == catch_up] { (one.as_str()) } }
                }
            }
            label { "Jitter" input name="jitter" value=(text(schedule.map(|it| it.jitter).filter(|jitter| !jitter.is_zero()).map(time))) placeholder="none" spellcheck="false"; }
            div.actions { button.primary type="submit" { @if schedule.is_some() { "Save" } @else { "Add" } } }
        }
    }
}
