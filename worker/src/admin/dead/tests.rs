//! Searches that end early.

use std::collections::HashSet;
use std::sync::Arc;

use super::search::{LetterFilter, Search};
use crate::admin::each::Handled;
use crate::admin::failure::Failure;
use crate::admin::progress::Progress;
use crate::app::{App, Config};
use crate::broker::{Broker, DeadLetterLock, Delivery, Publication};
use crate::message::{Headers, Message};
use crate::routing::{Queue, Topology};

const LETTERS: usize = 2000;

/// An app with dead letters of two tasks, in turn.
async fn app(name: &str) -> (App, Arc<dyn Broker>) {
    let broker_url = format!("memory://{name}").parse().expect("a URL");
    let app = App::new(Config { broker_url, ..Config::default() }).expect("a good configuration");
    let broker = app.broker().await.expect("it opens");
    broker.declare(&Topology::of_queue(Queue::new("q.dead"))).await.expect("declared");
    for n in 0..LETTERS {
        let headers = Headers::for_task(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string());
        let message = Message { headers, ..Message::default() };
        let routing_key = "q.dead".to_owned();
        broker.publish(Publication { routing_key, message, ..Publication::default() }).await.expect("taken");
    }
    (app, broker)
}

async fn ids(broker: &Arc<dyn Broker>) -> Vec<usize> {
    let all = broker.peek("q.dead", LETTERS).await.expect("it can be seen").into_iter();
    all.map(|message| message.id().expect("an id").parse().expect("a number")).collect()
}

fn even() -> LetterFilter {
    LetterFilter { queue: "q".into(), task: Some("even".into()), ..LetterFilter::default() }
}

#[tokio::test]
async fn a_walk_that_is_stopped_gives_back_the_rest_in_its_order_and_says_how_far_it_came() {
    let (app, broker) = app("dead-stopped").await;
    let progress = Arc::new(Progress::default());
    let mut search = Search::open(&app, even(), u32::MAX, Arc::clone(&progress)).await.expect("opened");
    let mut other = DeadLetterLock::new("q.dead");
    assert!(!other.take(&broker).await, "one at a time");
    let stopping = &progress;
    let work = async |delivery: Delivery| {
        if delivery.message.id() == Some("600") {
            stopping.stop();
        }
        (delivery, Ok(Handled::Done))
    };
    let stopped = search.each(work).await.expect_err("stopped");
    search.release().await;
    let counts = progress.counts();
    assert!(counts.total == LETTERS as u64 && (301..1000).contains(&counts.done), "{counts:?}");
    let (_, why) = counts.before("dropped", stopped).into_parts();
    let begin = format!("{} dropped among the first {} of {LETTERS}, then: ", counts.done, counts.seen);
    assert!(why.starts_with(&begin), "{why}");
    let dropped = 2 * usize::try_from(counts.done).expect("few");
    let expected: Vec<usize> = (0..LETTERS).filter(|n| n % 2 == 1 || *n >= dropped).collect();
    assert_eq!(ids(&broker).await, expected);
    assert!(other.take(&broker).await, "others may look");
    other.release(&*broker).await;
}

#[tokio::test]
async fn an_error_stops_the_walk_and_each_letter_is_settled() {
    let (app, broker) = app("dead-failing").await;
    let progress = Arc::new(Progress::default());
    let mut search = Search::open(&app, even(), u32::MAX, Arc::clone(&progress)).await.expect("opened");
    let work = async |delivery: Delivery| {
        let id = delivery.message.id().expect("an id").to_owned();
        // Those that start later may finish earlier.
        if id.ends_with('0') {
            tokio::task::yield_now().await;
        }
        match id.as_str() {
            "200" => (delivery, Err(Failure::failed("no room"))),
            "100" => (delivery, Ok(Handled::Kept)),
            _ => (delivery, Ok(Handled::Done)),
        }
    };
    let (_, why) = search.each(work).await.expect_err("it failed").into_parts();
    assert_eq!(why, "no room");
    let found = search.found();
    search.release().await;
    let left = ids(&broker).await;
    assert!(left.is_sorted(), "in their order");
    let left: HashSet<usize> = left.into_iter().collect();
    assert!(left.contains(&100) && left.contains(&200) && !left.contains(&50) && left.contains(&1998));
    assert_eq!(left.len() as u64, LETTERS as u64 - found.done);
}

#[tokio::test]
async fn a_search_takes_no_more_than_are_wanted() {
    let (app, broker) = app("dead-wanted").await;
    let mut search = Search::open(&app, even(), 3, Arc::default()).await.expect("opened");
    search.each(async |delivery: Delivery| (delivery, Ok(Handled::Done))).await.expect("done");
    assert_eq!(search.found().done, 3);
    search.release().await;
    let expected: Vec<usize> = [1, 3, 5].into_iter().chain(6..LETTERS).collect();
    assert_eq!(ids(&broker).await, expected);
}
