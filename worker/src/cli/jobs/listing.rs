//! `mq-worker jobs list`.

use chrono::{DateTime, Utc};

use crate::cli::arguments::JobsListArguments;
use crate::cli::exit::Outcome;
use crate::cli::output::{self, one_line};
use crate::history::{Filter, History, Job, Page};
use crate::show;

pub(super) async fn list(history: &History, arguments: &JobsListArguments) -> Outcome {
    let filter = Filter {
        id: arguments.id.clone(),
        name: arguments.task.clone(),
        states: arguments.state.clone(),
        queue: arguments.queue.clone(),
        worker: arguments.worker.clone(),
        text: arguments.text.clone(),
        from: arguments.from,
        to: arguments.to,
        ..Filter::default()
    };
    let page = history.jobs(filter, arguments.limit.into(), arguments.after).await?;
    if arguments.json {
        return output::json(&page);
    }
    if !page.jobs.is_empty() {
        let rows = page.jobs.iter().map(row).collect();
        output::table(
            &["id", "task", "state", "queue", "when", "took", "worker", "error"],
            rows,
            usize::MAX,
        )?;
    }
    note_rest(&page);
    Ok(())
}

/// Notes what the list does not show.
fn note_rest(page: &Page) {
    match (page.next, page.searched_to) {
        (Some(next), Some(time)) => {
            output::note(format!("searched back to {}; use --after {next} to continue", show::time(time)))
        }
        (Some(next), None) => output::note(format!("there are more; use --after {next} to see them")),
        (None, _) if page.jobs.is_empty() => output::note("no calls found"),
        (None, _) => {}
    }
}

fn row(job: &Job) -> Vec<String> {
    let text = |text: &Option<String>, width| {
        text.as_deref().map_or_else(|| "-".into(), |text| one_line(text, width))
    };
    let took = job.started_at.zip(job.finished_at).and_then(|(start, end)| (end - start).to_std().ok());
    vec![
        one_line(&job.id, 40),
        text(&job.name, 40),
        job.state.as_str().to_ascii_lowercase(),
        text(&job.queue, 30),
        when(job).map_or_else(|| "-".into(), |time| show::time(time).to_string()),
        took.map_or_else(|| "-".into(), |took| show::duration(took).to_string()),
        text(&job.worker, 30),
        job.error.as_ref().or(job.reason.as_ref()).map_or_else(String::new, |error| one_line(error, 60)),
    ]
}

fn when(job: &Job) -> Option<DateTime<Utc>> {
    job.sent_at.or(job.received_at).or(job.started_at).or(Some(job.state_at))
}
