//! Unique tasks where it is easy to get them wrong: what makes calls the same, and calls that are not sent after all.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt;
use mq_worker::task;
use support::places::everywhere;
use support::unique;

#[task(unique_for = "1h")]
async fn with_a_map(of: String, map: HashMap<String, u32>) {
    let _ = (of, map);
}

#[task(unique_for = "1h")]
async fn dropped(key: String) {
    let _ = key;
}

#[test]
fn the_order_in_a_map_makes_no_difference() {
    everywhere(async |place| {
        let app = place.app();
        let of = unique("map");
        // Each map has an order of its own.
        let map = || (0..20).map(|index| (format!("key-{index}"), index)).collect::<HashMap<_, _>>();
        let send =
            async || app.send(with_a_map.with(of.clone(), map()).queue(&place.queue)).await.expect("sent");
        assert!(!send().await.is_duplicate());
        for _ in 0..5 {
            assert!(send().await.is_duplicate(), "on {}", place.name);
        }
    });
}

#[test]
fn a_call_that_is_dropped_half_way_keeps_nobody_out_without_being_sent() {
    everywhere(async |place| {
        let app = place.app();
        // Everything is open and declared.
        app.send(dropped.with(unique("first")).queue(&place.queue)).await.expect("sent");
        let mut lost = 0;
        for steps in 0..12 {
            let key = unique("dropped");
            {
                let mut sending = Box::pin(app.send(dropped.with(key.clone()).queue(&place.queue)));
                for _ in 0..steps {
                    if sending.as_mut().now_or_never().is_some() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            // Whatever goes on in the background has its time.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let again = app.send(dropped.with(key).queue(&place.queue)).await.expect("an answer");
            if again.is_duplicate() {
                // Then the first one is there.
                let broker = app.broker().await.expect("a broker");
                let mut found = false;
                while let Some(delivery) = broker.get(&place.queue).await.expect("an answer") {
                    found |= delivery.message.headers.id() == Some(again.id());
                    delivery.ack();
                }
                lost += u32::from(!found);
            }
        }
        assert_eq!(lost, 0, "on {}", place.name);
    });
}
