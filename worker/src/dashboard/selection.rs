//! Selects calls: by their ids, or all that a search finds.

use super::query::Query;
use super::state::State;
use crate::admin::failure::{Failure, Outcome};

/// The most calls that one action covers.
const MOST: usize = 10_000;

/// Describes the selected calls for the audit trail.
pub(crate) fn calls(ids: &[String], filter: Option<&Query>) -> String {
    if let Some(filter) = filter {
        return format!("all of {}", filter.path(""));
    }
    let more = if ids.len() > 3 { format!(" and {} more", ids.len() - 3) } else { String::new() };
    format!("{}{more}", ids.iter().take(3).cloned().collect::<Vec<_>>().join(", "))
}

/// Returns the ids of the selected calls.
pub(crate) async fn select(state: &State, ids: &[String], filter: Option<&Query>) -> Outcome<Vec<String>> {
    let Some(filter) = filter else {
        return match ids.len() {
            0 => Err(Failure::usage("select the calls that are meant")),
            1..=MOST => Ok(ids.to_vec()),
            more => {
                Err(Failure::usage(format!("{more} calls are more than the {MOST} that are taken at once")))
            }
        };
    };
    let filter = filter.filter().map_err(Failure::usage)?;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = state.history.jobs(filter.clone(), 1000, after).await?;
        found.extend(page.jobs.into_iter().map(|job| job.id));
        if found.len() > MOST {
            return Err(Failure::usage(format!(
                "the search finds more than the {MOST} calls that are taken at once: narrow it"
            )));
        }
        after = page.next;
        if after.is_none() {
            return if found.is_empty() {
                Err(Failure::usage("the search finds no call"))
            } else {
                Ok(found)
            };
        }
    }
}
