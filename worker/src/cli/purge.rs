//! `mq-worker purge QUEUE`: drops the waiting messages of a queue.

use super::arguments::{CommonArguments, PurgeArguments};
use super::exit::Outcome;
use super::operate::{self, counted};
use super::output;

pub(super) fn run(PurgeArguments { queue, yes }: PurgeArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move {
        let (broker, info) = operate::queue(&app, &queue).await?;
        let waiting = counted(info.ready, "message");
        output::confirm(&format!("Drop {waiting} of queue `{queue}` permanently?"), yes)?;
        let dropped = broker.purge(&queue).await?;
        output::data(format!("{} dropped from queue `{queue}`", counted(dropped, "message")))
    })
}
