//! Queues with a limited length.

use mq_worker::{Overflow, Queue};
use support::within;

use super::super::lab::*;

pub(crate) async fn a_full_queue_refuses_more(lab: &Lab) {
    let broker = lab.open().await;
    let queue = lab.name("small");
    let small = Queue { max_length: Some(2), overflow: Some(Overflow::RejectPublish), ..Queue::new(&queue) };
    declare(&broker, [small]).await;
    let mut taken = 0;
    let error = loop {
        match within("publish", LIMIT, broker.publish(to(&queue, taken.to_string()))).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 20, "it takes any number");
    };
    assert!(error.is_rejected(), "{error:?}");
    // A quorum queue notices with a short delay that it is full.
    assert!(taken == 2 || (lab.kind == Kind::Quorum && taken > 2), "it took {taken}");
    expect_ready(&broker, &queue, taken).await;
    assert_eq!(drain(&broker, &queue).await.len() as u64, taken, "what was taken is there");
    support::eventually("there is room again", LIMIT, || async {
        broker.publish(to(&queue, "again")).await.ok()
    })
    .await;
}

pub(crate) async fn a_full_queue_drops_its_oldest_message(lab: &Lab) {
    let broker = lab.open().await;
    let (queue, dead) = (lab.name("small"), lab.name("dead"));
    let small = Queue {
        max_length: Some(2),
        overflow: Some(Overflow::DropHead),
        dead_letter_exchange: Some(String::new()),
        dead_letter_routing_key: Some(dead.clone()),
        ..Queue::new(&queue)
    };
    declare(&broker, [Queue::new(&dead), small]).await;
    for n in 0..5 {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    expect_ready(&broker, &dead, 3).await;
    assert_eq!(drain(&broker, &queue).await, ["3", "4"]);
    assert_eq!(drain(&broker, &dead).await, ["0", "1", "2"]);
}
