//! Failures around the page: a broker that is away at the start, ports and files in use, arguments of many megabytes.

use std::time::Duration;

use mq_worker::broker::DeadLetterLock;
use mq_worker::dashboard::{Dashboard, Login};
use mq_worker::{App, Config, SendOptions};
use support::eventually;

use super::api::{ask, dead_letters, get};
use super::schedules::html;
use super::site::Site;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_in_use_is_named_with_a_remedy() {
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
        (overview["problems"][0]["title"] == "The history is not being recorded").then_some(())
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

/// Submits a form, if any, and follows its redirect as a browser would; returns the session cookie and the page.
async fn browse(site: &Site, path: &str, cookie: &str, form: Option<&[(&str, &str)]>) -> (String, String) {
    let (url, mut cookie) = (site.url(path), cookie.to_owned());
    let (form, base) = (
        form.map(|form| {
            form.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<Vec<_>>()
        }),
        site.url(""),
    );
    let asked = tokio::task::spawn_blocking(move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
        let agent: ureq::Agent = config.build().into();
        let mut url = url;
        if let Some(form) = form {
            let answer = agent.post(&url).header("cookie", &cookie).send_form(form).expect("an answer");
            let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
            assert_eq!(answer.status(), 303);
            if let Some(set) = header("set-cookie") {
                cookie = set.split(';').next().expect("a pair").to_owned();
            }
            url = format!("{base}{}", header("location").expect("where to go"));
        }
        let mut answer = agent.get(&url).header("cookie", &cookie).call().expect("an answer");
        (cookie, answer.body_mut().read_to_string().expect("a text"))
    });
    asked.await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_takes_long_goes_on_and_its_outcome_is_on_a_later_page() {
    let site = Site::start().await;
    site.greet("nobody").await;
    dead_letters(&site, 1).await;
    let (cookie, page) =
        browse(&site, "/login", "", Some(&[("name", "ada"), ("password", "correct horse")])).await;
    let csrf = page.split("name=\"csrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    let csrf = csrf.expect("the form of the log-out");
    // Another process works on the dead-letter queue.
    let broker = site.app.broker().await.expect("a broker");
    let mut lock = DeadLetterLock::new("greetings.dead");
    while !lock.take(&broker).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let drop = [("csrf", csrf), ("action", "drop-dead"), ("queue", "greetings"), ("task", "dashboard.greet")];
    let (_, page) = browse(&site, "/act", &cookie, Some(&drop)).await;
    assert!(page.contains("This takes a while and goes on."), "{page}");
    lock.release(&*broker).await;
    eventually("the outcome is shown", SOON, || async {
        let (_, page) = browse(&site, "/activity", &cookie, None).await;
        page.contains("1 dead letter dropped").then_some(())
    })
    .await;
}
