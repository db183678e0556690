//! Commands to one worker.

use serde_json::{Map, Value};

use crate::admin::failure::{Failure, Outcome};
use crate::app::App;
use crate::control::Control;

/// Sends a command to one worker and waits for its confirmation.
pub(crate) async fn send_command(app: &App, worker: &str, method: &str, name: &str, value: Value) -> Outcome {
    let control = Control::new(app.broker().await?).to([worker]);
    let replies = control.ask(method, Map::from_iter([(name.to_owned(), value)])).await?;
    match replies.iter().find_map(|reply| reply.error()) {
        Some(error) => Err(Failure::failed(format!("{worker} refuses: {error}"))),
        None if replies.is_empty() => Err(Failure::failed(format!("{worker} does not reply"))),
        None => Ok(()),
    }
}
