use std::time::Duration;

use lapin::types::FieldTable;
use tokio::sync::oneshot;

use super::*;
use crate::connection::ConnectOptions;
use crate::routing::QueueKind;

/// A lane that never finishes attaching: nothing listens at its address.
fn unattached(commands: mpsc::Receiver<LaneCommand>, consumer: mpsc::Sender<Delivery>) -> Lane {
    let options = ConnectOptions {
        timeout: Duration::from_secs(1),
        queue_kind: QueueKind::Classic,
        tls: Default::default(),
        name: "test".into(),
    };
    let amqp = Amqp::open(&"amqp://127.0.0.1:1".parse().expect("a URL"), &options).expect("threads");
    let source = Source { queue: "q".into(), prefetch: 1, tag: "t".into(), arguments: FieldTable::default() };
    Lane::new(amqp, source, LaneStart::Attaching, Arc::default(), commands, consumer)
}

#[tokio::test]
async fn a_flush_begins_also_while_no_verdict_waits() {
    let (commands, inbox) = mpsc::channel(1);
    let (consumer, _deliveries) = mpsc::channel(1);
    let running = tokio::spawn(unattached(inbox, consumer).run());
    let (reply, answer) = oneshot::channel();
    commands.send(LaneCommand::Flush(reply)).await.expect("the lane runs");
    // Far more than it takes: a flush that does not start is never answered.
    tokio::time::timeout(Duration::from_secs(60), answer).await.expect("in time").expect("an answer");
    running.abort();
}

#[test]
fn a_flush_requested_during_a_flush_waits_for_the_next_one() {
    let mut flushes = Flushes::default();
    assert!(!flushes.begin() && !flushes.ask());
    let (first, mut is_first_over) = oneshot::channel();
    flushes.join(first);
    assert!(!flushes.is_under_way() && flushes.begin() && flushes.ask());
    let (second, mut is_second_over) = oneshot::channel();
    flushes.join(second);
    assert!(flushes.begin() && !flushes.ask(), "asked once");
    flushes.end();
    assert!(is_first_over.try_recv().is_ok() && is_second_over.try_recv().is_err());
    assert!(flushes.begin() && flushes.ask(), "asked anew");
    flushes.end();
    assert!(is_second_over.try_recv().is_ok() && flushes.deadline().is_none() && !flushes.begin());
}
