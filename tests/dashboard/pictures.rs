//! Pictures of the page for the documentation: `MQ_TEST_PICTURES=docs/screenshots ./tests/run dashboard pictures`.

use std::path::PathBuf;

use support::browser::{Browser, Look, may_start};

use super::site::Site;

/// Where the pictures go; without it they are only looked at.
const TARGET: &str = "MQ_TEST_PICTURES";

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_taken_in_light_and_dark() {
    if !may_start("tests/dashboard") {
        return;
    }
    let site = Site::start().await;
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
    for (look, theme) in [(Look::Light, "light"), (Look::Dark, "dark")] {
        let browser = Browser::start(look).await;
        site.log_in(&browser, "ada", "/tasks").await;
        browser.wait_for("#calls", "dead").await;
        for (name, path, part) in [
            ("overview", "/".to_owned(), "#rates svg"),
            ("tasks", "/tasks".into(), "#calls tbody"),
            ("task", format!("/tasks/{dead}"), "#timeline"),
            ("dead", "/dead".into(), ".groups"),
        ] {
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
        let expected = if look == Look::Dark { "rgb(14, 17, 22)" } else { "rgb(246, 247, 249)" };
        assert_eq!(colour, expected, "{theme}");
        browser.close().await;
    }
}
