//! Limits of messages and queues: length, time to live, expiry, auto-delete.

use std::time::Duration;

use mq_worker::message::headers::names;
use mq_worker::{Overflow, Queue};

use super::*;

/// A queue whose dead letters go to `dead`.
fn with_dead_letters(name: &str) -> Queue {
    Queue {
        dead_letter_exchange: Some(String::new()),
        dead_letter_routing_key: Some("dead".into()),
        ..Queue::new(name)
    }
}

#[tokio::test]
async fn a_full_queue_rejects_or_drops_its_head() {
    let (_dir, broker) = fresh(&["dead"]).await;
    let rejects =
        Queue { max_length: Some(2), overflow: Some(Overflow::RejectPublish), ..Queue::new("rejects") };
    declare(&*broker, rejects).await;
    declare(&*broker, Queue { max_length: Some(2), ..with_dead_letters("drops") }).await;
    for body in ["1", "2"] {
        publish(&*broker, "rejects", body).await;
    }
    let error = broker.publish(to_queue("rejects", "3")).await.expect_err("full");
    assert!(error.is_rejected() && error.to_string().contains("`rejects`"), "{error}");
    broker.get("rejects").await.unwrap().expect("one").ack();
    publish(&*broker, "rejects", "3").await;

    for body in ["1", "2", "3", "4"] {
        publish(&*broker, "drops", body).await;
    }
    assert_eq!(counts(&*broker, "drops").await, Some((2, 0, 0, 0)));
    for expected in ["1", "2"] {
        let letter = broker.get("dead").await.unwrap().expect("a dead letter");
        assert_eq!(body(&letter), expected);
        assert_eq!(letter.message.headers.get_str(names::DEAD_REASON), Some("maxlen"));
        assert_eq!(letter.message.headers.get_str(names::DEAD_QUEUE), Some("drops"));
        letter.ack();
    }
}

#[tokio::test]
async fn the_length_is_right_after_another_process_has_changed_it() {
    let (dir, broker) = fresh(&[]).await;
    let rejects = Queue { max_length: Some(1), overflow: Some(Overflow::RejectPublish), ..Queue::new("q") };
    declare(&*broker, rejects).await;
    publish(&*broker, "q", "1").await;
    assert!(broker.publish(to_queue("q", "2")).await.expect_err("full").is_rejected());
    let path = dir.path().join("jobs.db");
    tokio::task::spawn_blocking(move || roles::run("purge", &path, "q")).await.expect("no panic");
    publish(&*broker, "q", "2").await;
}

#[tokio::test]
async fn an_expired_message_is_dead_lettered_and_never_delivered() {
    let (_dir, broker) = fresh(&["dead"]).await;
    let ttl = Duration::from_millis(80);
    declare(&*broker, Queue { message_ttl: Some(ttl), ..with_dead_letters("short") }).await;
    declare(&*broker, with_dead_letters("plain")).await;
    publish(&*broker, "short", "by queue").await;
    let mut publication = to_queue("plain", "by message");
    publication.message.properties.expiration = Some(Duration::from_millis(20));
    broker.publish(publication).await.expect("published");
    publish(&*broker, "plain", "stays").await;
    let mut dead = consume(&*broker, &["dead"], 10).await;
    for (text, queue) in [("by message", "plain"), ("by queue", "short")] {
        let letter = next(&mut dead).await;
        assert_eq!(body(&letter), text);
        assert_eq!(letter.message.headers.get_str(names::DEAD_REASON), Some("expired"));
        assert_eq!(letter.message.headers.get_str(names::DEAD_QUEUE), Some(queue));
        assert!(letter.message.headers.get_str(names::DEAD_AT).is_some());
        assert_eq!(letter.message.properties.expiration, None, "it would expire again");
        letter.ack();
    }
    assert!(broker.get("short").await.unwrap().is_none());
    assert_eq!(body(&broker.get("plain").await.unwrap().expect("one")), "stays");
}

#[tokio::test]
async fn one_that_is_handed_out_expires_when_it_comes_back() {
    let (_dir, broker) = fresh(&["q"]).await;
    let mut publication = to_queue("q", "x");
    publication.message.properties.expiration = Some(Duration::from_millis(30));
    broker.publish(publication).await.expect("published");
    let held = broker.get("q").await.unwrap().expect("one");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(counts(&*broker, "q").await, Some((0, 1, 0, 0)), "a running message expired");
    held.requeue();
    until("it is gone", async || counts(&*broker, "q").await == Some((0, 0, 0, 0))).await;
}

#[tokio::test]
async fn dead_letters_in_a_circle_come_to_an_end() {
    let (_dir, broker) = fresh(&[]).await;
    for (name, other) in [("a", "b"), ("b", "a")] {
        let queue = Queue {
            max_length: Some(1),
            dead_letter_exchange: Some(String::new()),
            dead_letter_routing_key: Some(other.into()),
            ..Queue::new(name)
        };
        declare(&*broker, queue).await;
    }
    for index in 0..10 {
        publish(&*broker, "a", &index.to_string()).await;
    }
    assert_eq!(counts(&*broker, "a").await, Some((1, 0, 0, 0)));
    assert_eq!(counts(&*broker, "b").await, Some((1, 0, 0, 0)));
}

#[tokio::test]
async fn queues_go_when_nobody_uses_them() {
    let (_dir, broker) = fresh(&[]).await;
    declare(&*broker, Queue { auto_delete: true, ..Queue::new("auto") }).await;
    declare(&*broker, Queue { expires: Some(Duration::from_millis(200)), ..Queue::new("expires") }).await;
    let consumers = [consume(&*broker, &["auto", "expires"], 1).await, consume(&*broker, &["auto"], 1).await];
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(counts(&*broker, "expires").await.is_some(), "a queue with a consumer expired");
    consumers[0].control().cancel().await;
    assert_eq!(counts(&*broker, "auto").await, Some((0, 0, 0, 1)));
    consumers[1].control().cancel().await;
    assert_eq!(counts(&*broker, "auto").await, None);
    until("the queue expires", async || counts(&*broker, "expires").await.is_none()).await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_used_as_it_is() {
    let (_dir, broker) = fresh(&[]).await;
    let first = Queue { max_length: Some(1), overflow: Some(Overflow::RejectPublish), ..Queue::new("q") };
    declare(&*broker, first).await;
    declare(&*broker, Queue { max_length: Some(100), ..Queue::new("q") }).await;
    publish(&*broker, "q", "1").await;
    assert!(broker.publish(to_queue("q", "2")).await.expect_err("the first declaration holds").is_rejected());
}
