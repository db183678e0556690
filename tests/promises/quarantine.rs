//! The quarantine of a message that has killed workers.

use mq_worker::message::Headers;
use mq_worker::{Context, TaskError, task};
use support::journal::Journal;
use support::places::{Running, consumed, eventually, everywhere};
use support::unique;

use super::failures::publish;

/// The header with the id of the message's next quarantine run.
const QUARANTINE: &str = "mq-quarantine";

#[task(max_retries = 2, backoff = "1ms..5ms")]
async fn failing_in_quarantine(ctx: &Context) -> Result<(), TaskError> {
    let run = ctx.headers().get_str(QUARANTINE).unwrap_or_default();
    ctx.state::<Journal>().write("runs", run);
    Err(TaskError::failed("not a crash"))
}

/// A note about one quarantine run must not count against the next one of the message: neither after it failed and is
/// retried, nor when its dead letter is replayed.
#[test]
fn each_republished_copy_has_its_own_quarantine() {
    everywhere(async |place| {
        let app = place.app();
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        let mut headers = Headers::for_task("failing_in_quarantine", &unique("id"));
        headers.set("mq-crashes", 2);
        publish(&app, &place, headers).await;
        eventually("it ran three times", async || journal.read("runs").len() == 3).await;
        running.stop().await;
        let letter = place.letter(&app).await;
        let mut runs = journal.read("runs");
        runs.extend(letter.message.headers.get_str(QUARANTINE).map(str::to_owned));
        letter.ack();
        assert_eq!(runs.len(), 4, "{}: {runs:?}", place.name);
        runs.sort();
        runs.dedup();
        assert_eq!(runs.len(), 4, "{}: {runs:?}", place.name);
    });
}
