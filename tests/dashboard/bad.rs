//! What goes wrong around the page: a broker that is away when it starts, ports and files that others hold, arguments of
//! many megabytes.

use std::time::Duration;

use mq_worker::dashboard::{Dashboard, Login};
use mq_worker::{App, Config, SendOptions};
use support::eventually;

use super::api::{ask, get};
use super::schedules::html;
use super::site::Site;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_in_use_is_named_with_a_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("an address");
    let app = App::new(Config::default()).expect("an application");
    let error = Dashboard::bind(app, listen, Login::Required).await.expect_err("it is in use").to_string();
    assert!(
        error.contains(&listen.to_string()) && error.contains("choose another one with --listen"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_broker_is_away_from_the_start_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let site = Site::without_worker(|config| {
        config.broker_url = format!("amqp://guest:hidden@{address}").parse().expect("a URL");
    })
    .await;
    let overview = eventually("the page says so", SOON, || async {
        let overview = get(&site, "/api/v1/overview").await;
        (overview["problems"][0]["title"] == "RabbitMQ cannot be reached").then_some(overview)
    })
    .await;
    assert!(!overview.to_string().contains("hidden"), "{overview}");
    let (status, answer) = ask(&site, "GET", "/api/v1/broker", Some("l00k"), None).await;
    assert_eq!(status, 503, "{answer}");
    assert_eq!(html(&site, "/tasks", "l00k").await.0, 200, "the history needs no broker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_history_is_a_problem_and_loses_nothing() {
    let site = Site::without_worker(|_| {}).await;
    let first = site.greet("first").await;
    let is_known = async |id: &str| {
        let path = format!("/api/v1/tasks/{id}");
        eventually("the call is in the history", SOON, || async {
            let (status, _) = ask(&site, "GET", &path, Some("l00k"), None).await;
            (status == 200).then_some(())
        })
        .await;
    };
    is_known(&first).await;
    let other = rusqlite::Connection::open(&site.app.config().history).expect("the file");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let second = site.greet("second").await;
    eventually("the page says that the history stands still", SOON, || async {
        let overview = get(&site, "/api/v1/overview").await;
        (overview["problems"][0]["title"] == "The history stands still").then_some(())
    })
    .await;
    other.execute_batch("ROLLBACK").expect("unlocked");
    is_known(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_argument_of_ten_megabytes_fills_no_page() {
    let site = Site::without_worker(|_| {}).await;
    let large = "x".repeat(10 << 20);
    let to = SendOptions { queue: Some("greetings".into()), ..SendOptions::default() };
    let sent = site.app.send_task("dashboard.greet", &(large,), to).await.expect("sent");
    let path = format!("/tasks/{}", sent.id());
    let page = eventually("the call is shown", SOON, || async {
        let (status, page) = html(&site, &path, "t0ken").await;
        (status == 200).then_some(page)
    })
    .await;
    assert!(page.len() < 200_000, "{} bytes", page.len());
    let listed = get(&site, "/api/v1/tasks").await.to_string().len();
    assert!(listed < 200_000, "{listed} bytes");
}
