//! `mq-worker revoke ID…`: calls that are not to be run, or not to run on.

use super::arguments::{CommonArguments, RevokeArguments};
use super::exit::Outcome;
use super::operate::{self, counted};
use super::output;

pub(super) fn run(arguments: RevokeArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move {
        for id in &arguments.ids {
            match arguments.terminate {
                true => app.terminate(id).await?,
                false => app.revoke(id).await?,
            }
        }
        output::data(format!("{} revoked", counted(arguments.ids.len() as u64, "task")))
    })
}
