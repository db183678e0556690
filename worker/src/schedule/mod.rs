//! When calls are due: expressions, time zones, and what happens to a due time that was missed. Plain data and pure
//! functions; [`beat`](crate::beat) acts on them.

mod backlog;
mod cron;
mod definition;
mod policy;
mod timing;

pub(crate) use backlog::{backlog, handled_until, run_at};
pub use definition::Schedule;
pub use policy::{CatchUp, Overlap};
pub use timing::Timing;
