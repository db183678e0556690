//! Batch `get` on a connection that is lost.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use mq_worker::QueueKind;

use super::fixture::{Detour, Fixture, SOON, id, until, url};

#[tokio::test]
async fn messages_held_on_a_lost_connection_are_requeued_and_get_many_says_so() {
    let Some(url) = url() else { return };
    let detour = Detour::start(&url);
    let t = Fixture::alone(&detour.url).await;
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queue = t.queue(&format!("{kind:?}"), |queue| queue.kind = Some(kind)).await;
        let ids: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        for sent in join_all(ids.iter().map(|id| t.send(&queue, id))).await {
            sent.expect("taken");
        }
        let (mut held, mut acked) = (Vec::new(), BTreeSet::new());
        for (n, delivery) in t.broker.get_many(&queue, 200).await.expect("taken").into_iter().enumerate() {
            match n % 2 {
                0 => held.push(delivery),
                _ => {
                    acked.insert(id(&delivery));
                    delivery.ack();
                }
            }
        }
        t.broker.get_many(&queue, 0).await.expect("the acks are written");
        detour.cut();
        let error = tokio::time::timeout(SOON, t.broker.get_many(&queue, 10)).await.expect("in time");
        let error = format!("{:#}", error.expect_err("some are held"));
        assert!(error.contains("were held: they are in the queue again"), "{error}");
        // These acks have no effect: the messages are in the queue again.
        held.into_iter().for_each(mq_worker::broker::Delivery::ack);
        t.broker.get_many(&queue, 0).await.expect("an answer");
        until("what was held is back", || async { t.ready(&queue).await >= 300 - acked.len() as u64 }).await;
        let mut rest = BTreeSet::new();
        loop {
            let taken = t.broker.get_many(&queue, 1000).await.expect("nothing is held");
            if taken.is_empty() {
                break;
            }
            for delivery in taken {
                assert!(rest.insert(id(&delivery)), "{} came twice", id(&delivery));
                delivery.ack();
            }
        }
        // An ack that did not reach the queue has no effect.
        let all: BTreeSet<String> = rest.union(&acked).cloned().collect();
        assert_eq!(all.len(), 300, "{kind:?}: none is lost");
    }
    t.end().await;
}
