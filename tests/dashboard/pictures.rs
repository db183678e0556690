//! Pictures of the page for the documentation: `MQ_TEST_PICTURES=docs/screenshots ./tests/run dashboard pictures`; with
//! `MQ_TEST_PICTURES_ALL=DIR`, of every page in light, in dark and on a phone, for review after a change.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use mq_worker::history::{Entry, History, Kind, Occurrence};
use serde_json::json;
use support::browser::{Browser, Look, may_start};

use super::api::{act, dead_letters, get};
use super::site::Site;

/// Where the pictures are saved; without it they are only taken and checked.
const TARGET: &str = "MQ_TEST_PICTURES";

/// The same for pictures of every page.
const ALL: &str = "MQ_TEST_PICTURES_ALL";

/// Returns the directory that a variable names; relative paths start at the root of the workspace.
fn directory(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable)?;
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path);
    std::fs::create_dir_all(&path).expect("a directory");
    Some(path)
}

/// Generates a realistic hour: some thousand calls, a peak, and some failures.
async fn history(site: &Site) {
    let history = History::open(&site.app.config().history).await.expect("the history");
    let now = Utc::now();
    let mut entries = Vec::new();
    for minute in 1..60_i64 {
        let wave = 40.0 + 25.0 * (minute as f64 / 7.0).sin() + 12.0 * (minute as f64 / 2.3).cos();
        for index in 0..wave as i64 {
            let id = format!("{minute:02}{index:03}");
            let (kind, error) = match index {
                0 if minute % 3 == 0 => {
                    (Kind::Failed, Some("Rejected('there is nobody to greet')".to_owned()))
                }
                1..4 => (Kind::Retried, Some("OSError('the line is busy')".to_owned())),
                _ => (Kind::Succeeded, None),
            };
            let at = |millis: i64| {
                now - TimeDelta::minutes(minute) + TimeDelta::milliseconds(index * 400 + millis)
            };
            let runtime = 0.02 + 0.004 * ((index * 7 + minute * 3) % 17) as f64;
            let event = |kind, millis| Occurrence {
                name: Some("dashboard.greet".into()),
                queue: Some("greetings".into()),
                worker: Some("greeter@host-1".into()),
                args: Some("('grace',)".into()),
                ..Occurrence::new(kind, &id, at(millis))
            };
            let wait = Some(0.004 + 0.001 * ((index * 5 + minute) % 23) as f64);
            let end =
                Occurrence { error, runtime: Some(runtime), ..event(kind, 20 + (runtime * 1000.0) as i64) };
            let start = Occurrence { wait, ..event(Kind::Started, 20) };
            entries.extend([start, end].map(|event| Entry::Call(Box::new(event))));
        }
    }
    history.record(entries).await.expect("recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_taken_in_light_and_dark() {
    if !may_start("tests/dashboard") {
        return;
    }
    let site = Site::start().await;
    history(&site).await;
    for round in 0..60 {
        let name = match round % 12 {
            3 => "nobody",
            7 => "busy",
            _ => "grace",
        };
        site.greet(name).await;
    }
    for _ in 0..3 {
        site.greet("slow").await;
    }
    let dead = site.greet("nobody").await;
    dead_letters(&site, 6).await;
    // The page's view of the broker may lag a moment.
    support::eventually("the page knows them", Duration::from_secs(20), || async {
        let dead = get(&site, "/api/v1/dead").await;
        (dead["queues"][0]["groups"][0]["count"] == 6).then_some(())
    })
    .await;
    let target = directory(TARGET);
    let overview = ("overview", "/".to_owned(), "#rates svg");
    let tasks = ("tasks", "/tasks".to_owned(), "#calls tbody");
    let task = ("task", format!("/tasks/{dead}"), "#timeline");
    let letters = ("dead-letters", "/dead".to_owned(), ".groups");
    let light = (Look::Light, "light", "rgb(246, 247, 249)", vec![overview.clone(), tasks, letters]);
    let dark = (Look::Dark, "dark", "rgb(14, 17, 22)", vec![overview, task]);
    for (look, theme, ground, pages) in [light, dark] {
        let browser = Browser::start(look).await;
        site.log_in(&browser, "ada", "/tasks").await;
        browser.wait_for("#calls", "dead-lettered").await;
        for (name, path, part) in pages {
            browser.open(&site.url(&path)).await;
            browser.wait(part).await;
            let picture = browser.picture().await;
            assert!(
                picture.starts_with(b"\x89PNG") && picture.len() > 5_000,
                "{name}: {} bytes",
                picture.len()
            );
            if let Some(target) = &target {
                std::fs::write(target.join(format!("{name}-{theme}.png")), picture).expect("a file");
            }
        }
        let colour = browser.script("return getComputedStyle(document.body).backgroundColor").await;
        assert_eq!(colour, ground, "{theme}");
        browser.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_can_be_looked_at() {
    let Some(target) = directory(ALL).filter(|_| may_start("tests/dashboard")) else { return };
    let site = Site::start().await;
    history(&site).await;
    for name in ["grace", "busy", "nobody", "slow"] {
        site.greet(name).await;
    }
    let dead = site.greet("nobody").await;
    let alone = mq_worker::SendOptions { queue: Some("nobody.listens".into()), ..Default::default() };
    let waits = site.app.send_task("dashboard.greet", &("ben",), alone).await.expect("sent");
    let schedule = json!({
        "action": "put-schedule", "name": "greetings.every-morning", "task": "dashboard.greet", "cron": "0 9 * * mon-fri",
        "tz": "Europe/Berlin", "args": "[\"ann\"]", "queue": "greetings", "is_new": true,
    });
    for action in [schedule, json!({"action": "pause", "task": "dashboard.other"})] {
        let (status, answer) = act(&site, action).await;
        assert_eq!(status, 200, "{answer}");
    }
    let pages = [
        ("overview", "/".to_owned()),
        ("tasks", "/tasks".into()),
        ("task-dead", format!("/tasks/{dead}")),
        ("task-waits", format!("/tasks/{}", waits.id())),
        ("queues", "/queues".into()),
        ("queue", "/queues/greetings".into()),
        ("workers", "/workers".into()),
        ("worker", "/workers/greeter%40host-1".into()),
        ("dead", "/dead".into()),
        ("schedules", "/schedules".into()),
        ("schedule", "/schedules/greetings.every-morning".into()),
        ("broker", "/broker".into()),
        ("activity", "/activity".into()),
        ("login", "/logout".into()),
    ];
    for (look, theme) in [(Look::Light, "light"), (Look::Dark, "dark"), (Look::Phone, "phone")] {
        let browser = Browser::start(look).await;
        site.log_in(&browser, "ada", "/tasks").await;
        browser.wait_for("#calls", "dead-lettered").await;
        for (name, path) in &pages {
            match *name {
                "login" => browser.click("form[action='/logout'] button").await,
                _ => browser.open(&site.url(path)).await,
            }
            browser.wait("h1").await;
            let file = target.join(format!("{name}-{theme}.png"));
            std::fs::write(file, browser.whole().await).expect("a file");
            if look == Look::Phone {
                browser.script("window.scrollBy(0, window.innerHeight - 60)").await;
                let file = target.join(format!("{name}-{theme}-below.png"));
                std::fs::write(file, browser.picture().await).expect("a file");
            }
        }
        browser.close().await;
    }
}
