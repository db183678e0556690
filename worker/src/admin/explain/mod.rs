//! Why a call is not running: facts from the broker, the workers, the history and the result backend, and what follows
//! from them.
//!
//! `gather` collects the `facts`, and `reasons` draws conclusions from them without touching anything.

mod facts;
mod gather;
mod reasons;

use chrono::Utc;

use crate::app::App;
use crate::control::Control;
use crate::error::Result;
use crate::history::History;
pub(crate) use facts::ScheduleFacts;
pub(crate) use reasons::Reason;

/// An answer for people and programs.
pub(crate) struct Explanation {
    /// Why it is not running, or how it ended; the most important first, and never empty.
    pub(crate) reasons: Vec<Reason>,
    /// What could not be found out.
    pub(crate) gaps: Vec<String>,
    /// The task, if known.
    pub(crate) task: Option<String>,
    /// The queue, if known.
    pub(crate) queue: Option<String>,
    /// The schedule that sent it.
    pub(crate) schedule: Option<ScheduleFacts>,
}

/// Finds out why a call is not running.
///
/// # Errors
/// The broker cannot be reached or refuses us.
pub(crate) async fn explain(
    app: &App,
    history: Option<&History>,
    control: &Control,
    id: &str,
) -> Result<Explanation> {
    let facts = gather::gather(app, history, control, id).await?;
    Ok(Explanation {
        reasons: reasons::explain(&facts, Utc::now()),
        gaps: facts.gaps,
        schedule: facts.schedule,
        task: facts.task,
        queue: facts.queue.map(|queue| queue.name),
    })
}
