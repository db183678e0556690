//! Pictures of the page for the documentation: `MQ_TEST_PICTURES=docs/screenshots ./tests/run dashboard pictures`.

use std::path::PathBuf;

use chrono::{TimeDelta, Utc};
use mq_worker::history::{Entry, History, Kind, Occurrence};
use support::browser::{Browser, Look, may_start};

use super::site::Site;

/// Where the pictures go; without it they are only looked at.
const TARGET: &str = "MQ_TEST_PICTURES";

/// An hour that looks like one: some thousand calls, a wave of them, and some that fail.
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
    let target = std::env::var_os(TARGET).map(|path| {
        // Relative paths start from the root of the workspace.
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
    });
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
                std::fs::create_dir_all(target).expect("a directory");
                std::fs::write(target.join(format!("{name}-{theme}.png")), picture).expect("a file");
            }
        }
        let colour = browser.script("return getComputedStyle(document.body).backgroundColor").await;
        assert_eq!(colour, ground, "{theme}");
        browser.close().await;
    }
}
