//! Warns about schedules whose task no running worker has: a wrong name would go unnoticed until the first call is due,
//! which may be months away.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;

use crate::app::App;
use crate::app::schedules::Origin;
use crate::control::Control;
use crate::schedule::Schedule;
use crate::tracing;

/// The pauses before asking the workers, until one of them replies: they may be started together with the scheduler.
const LOOKS: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(60)];

/// Asks the workers for those scheduled tasks that this program does not have.
pub(super) async fn warn(app: App, declared: Vec<(Origin, Schedule)>) {
    let foreign_schedules: Vec<&Schedule> = declared
        .iter()
        .map(|(_, schedule)| schedule)
        .filter(|schedule| app.registry().get(&schedule.task).is_none())
        .collect();
    let tasks: BTreeSet<&str> = foreign_schedules.iter().map(|schedule| schedule.task.as_str()).collect();
    if tasks.is_empty() {
        return;
    }
    for pause in LOOKS {
        sleep(pause).await;
        // The scheduler itself warns about an unreachable broker.
        let Ok(broker) = app.broker().await else { continue };
        let Ok(Some(registered)) = Control::new(broker).registered(&tasks).await else { continue };
        for schedule in foreign_schedules {
            if let Some(problem) = registered.complaint(&schedule.task) {
                tracing::warn!(
                    schedule = schedule.name,
                    problem,
                    "no running worker has the task of a schedule"
                );
            }
        }
        return;
    }
}
