//! The page on RabbitMQ: its actions, a broker that goes away and comes back, and a missing management API.

use std::time::Duration;

use serde_json::{Value, json};
use support::{Proxy, eventually, shared, unique};

use super::api::{act, ask, get};
use super::site::Site;

const SOON: Duration = Duration::from_secs(40);

async fn done(site: &Site, action: Value) -> String {
    let (status, answer) = act(site, action.clone()).await;
    assert_eq!(status, 200, "{action}: {answer}");
    answer["done"].as_str().expect("a text").to_owned()
}

fn titles(overview: &Value) -> Vec<&str> {
    let problems = overview["problems"].as_array().expect("problems");
    problems.iter().filter_map(|problem| problem["title"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_acts_on_rabbitmq_and_says_when_it_is_away() {
    let Some(node) = shared::rabbitmq(file!()) else { return };
    let (before, after) = node.url.split_once('@').expect("a user");
    let (address, path) = after.split_once('/').expect("a virtual host");
    let proxy = Proxy::start(address.to_owned());
    let url = format!("{before}@{}/{path}", proxy.address());
    let (queue, other) = (unique("page"), unique("page"));
    let worker = format!("{}@h", unique("page"));
    let site = Site::start_with(|config| {
        config.broker_url = url.parse().expect("a URL");
        config.worker.queues = vec![queue.clone()];
        config.worker.hostname = Some(worker.clone());
        config.worker.concurrency = 2;
        config.management_url = Some("http://127.0.0.1:1".parse().expect("a URL"));
    })
    .await;
    let one = format!("/api/v1/workers/{worker}");
    let worker_is = async |what: &str, check: &dyn Fn(&Value) -> bool| {
        eventually(what, SOON, || async {
            let (status, answer) = ask(&site, "GET", &one, Some("l00k"), None).await;
            (status == 200 && check(&answer)).then_some(())
        })
        .await;
    };
    worker_is("the worker replies", &|_| true).await;
    let overview = get(&site, "/api/v1/overview").await;
    assert!(titles(&overview).contains(&"The management API of RabbitMQ does not answer"), "{overview}");

    done(&site, json!({"action": "resize-worker", "worker": worker, "by": 3})).await;
    worker_is("it has more slots", &|found| found["concurrency"] == 5).await;
    done(&site, json!({"action": "resize-worker", "worker": worker, "by": -4})).await;
    worker_is("it has fewer slots", &|found| found["concurrency"] == 1).await;
    done(&site, json!({"action": "add-queue", "worker": worker, "queue": other})).await;
    worker_is("it has another queue", &|found| found["queues"].as_array().is_some_and(|all| all.len() == 2))
        .await;
    done(&site, json!({"action": "cancel-queue", "worker": worker, "queue": other})).await;
    worker_is("it has one queue", &|found| found["queues"] == json!([queue])).await;

    let send =
        |to: &str| json!({"action": "send", "task": "dashboard.greet", "args": "[\"eve\"]", "queue": to});
    done(&site, send(&other)).await;
    let (status, _) = ask(&site, "POST", &format!("/api/v1/queues/{other}/peek"), Some("l00k"), None).await;
    assert_eq!(status, 403, "here a look changes what is looked at");
    let (status, peeked) =
        ask(&site, "POST", &format!("/api/v1/queues/{other}/peek"), Some("t0ken"), None).await;
    assert_eq!((status, &peeked["messages"][0]["task"]), (200, &json!("dashboard.greet")), "{peeked}");
    let moved = done(&site, json!({"action": "move-messages", "queue": other, "to": queue})).await;
    assert!(moved.starts_with("1 message moved"), "{moved}");
    eventually("it has run", SOON, || async {
        let found = get(&site, &format!("/api/v1/tasks?state=SUCCESS&queue={queue}")).await;
        (!found["tasks"][0].is_null()).then_some(())
    })
    .await;
    done(&site, json!({"action": "delete-queue", "queue": other})).await;
    let (status, refused) = act(&site, json!({"action": "delete-queue", "queue": queue})).await;
    assert!(
        status == 422 && refused["error"].as_str().is_some_and(|why| why.contains("in use")),
        "{refused}"
    );

    proxy.refuse(true);
    proxy.cut();
    eventually("the page says that the broker is away", SOON, || async {
        let overview = get(&site, "/api/v1/overview").await;
        titles(&overview).contains(&"RabbitMQ cannot be reached").then_some(())
    })
    .await;
    for path in ["/api/v1/broker".to_owned(), format!("/api/v1/dead/{queue}")] {
        let (status, answer) = ask(&site, "GET", &path, Some("l00k"), None).await;
        let why = answer["error"].as_str().unwrap_or_default();
        assert!(status == 503 && why.starts_with("RabbitMQ cannot be reached"), "{path}: {answer}");
    }
    assert_eq!(act(&site, send(&queue)).await.0, 503);
    assert_eq!(get(&site, &one).await["name"], worker.as_str(), "what was seen last is shown");

    proxy.refuse(false);
    eventually("the page has recovered", SOON, || async {
        let overview = get(&site, "/api/v1/overview").await;
        overview["broker"]["error"].is_null().then_some(())
    })
    .await;
    done(&site, json!({"action": "stop-worker", "worker": worker})).await;
    eventually("the worker has gone", SOON, || async {
        let (status, _) = ask(&site, "GET", &one, Some("l00k"), None).await;
        (status == 404).then_some(())
    })
    .await;
    for queue in [queue.clone(), format!("{queue}.dead")] {
        done(&site, json!({"action": "delete-queue", "queue": queue, "force": true})).await;
    }
}
