//! Taking many messages at once on a connection that is lost.

use mq_worker::QueueKind;

use super::fixture::{Detour, Fixture, SOON, id, until, url};

#[tokio::test]
async fn what_was_taken_on_a_lost_connection_is_in_its_queue_and_the_walk_is_told() {
    let Some(url) = url() else { return };
    let detour = Detour::start(&url);
    let t = Fixture::alone(&detour.url).await;
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queue = t.queue(&format!("{kind:?}"), |queue| queue.kind = Some(kind)).await;
        for n in 0..300 {
            t.send(&queue, &n.to_string()).await.expect("taken");
        }
        let (mut held, mut acked) = (Vec::new(), Vec::new());
        for (n, delivery) in t.broker.get_many(&queue, 200).await.expect("taken").into_iter().enumerate() {
            match n % 2 {
                0 => held.push(delivery),
                _ => {
                    acked.push(id(&delivery));
                    delivery.ack();
                }
            }
        }
        t.broker.get_many(&queue, 0).await.expect("the acks are written");
        detour.cut();
        let error = tokio::time::timeout(SOON, t.broker.get_many(&queue, 10)).await.expect("in time");
        let error = format!("{:#}", error.expect_err("some are held"));
        assert!(error.contains("were held: they are in the queue again"), "{error}");
        // Void: they are in the queue already.
        held.into_iter().for_each(mq_worker::broker::Delivery::ack);
        t.broker.get_many(&queue, 0).await.expect("an answer");
        until("all but the acked are back", || async { t.ready(&queue).await == 300 - acked.len() as u64 })
            .await;
        let mut rest = Vec::new();
        while rest.len() + acked.len() < 300 {
            let taken = t.broker.get_many(&queue, 1000).await.expect("nothing is held");
            assert!(!taken.is_empty(), "{} are missing", 300 - rest.len() - acked.len());
            rest.extend(taken.iter().map(id));
            taken.into_iter().for_each(mq_worker::broker::Delivery::ack);
        }
        let mut all: Vec<u32> = rest.iter().chain(&acked).map(|id| id.parse().expect("a number")).collect();
        all.sort_unstable();
        assert_eq!(all, (0..300).collect::<Vec<_>>(), "{kind:?}: each once");
    }
    t.end().await;
}
