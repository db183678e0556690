//! Schedules on the page and through the API: visible to everyone, changed only by users with the role to act.

use std::time::Duration;

use mq_worker::{Beat, Schedule, Timing};
use serde_json::{Value, json};

use super::api::{act, ask, get};
use super::site::Site;

/// Fetches a page as a browser does, with the token of a role.
pub(crate) async fn html(site: &Site, path: &str, token: &str) -> (u16, String) {
    let (url, token) = (site.url(path), format!("Bearer {token}"));
    let asked = tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut response = agent.get(&url).header("authorization", token).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("a text"))
    });
    asked.await.expect("no panic")
}

async fn last(site: &Site, name: &str) -> Value {
    get(site, &format!("/api/v1/schedules/{name}")).await["runs"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_seen_run_paused_edited_and_removed() {
    let site = Site::start().await;
    let put = json!({
        "action": "put-schedule", "name": "a/b <1>", "task": "dashboard.greet", "every": "1h", "args": "[\"ann\"]",
        "queue": "greetings", "is_new": true,
    });
    let (status, done) = act(&site, put.clone()).await;
    assert_eq!(status, 200, "{done}");
    let (status, refused) = act(&site, put).await;
    assert!(status == 422 && refused.to_string().contains("there is a schedule"), "{refused}");
    let found = get(&site, "/api/v1/schedules").await;
    let schedule = &found["schedules"][0];
    assert_eq!((&schedule["name"], &schedule["origin"]), (&json!("a/b <1>"), &json!("hand")), "{found}");
    assert_eq!(schedule["upcoming"].as_array().map(Vec::len), Some(5), "{schedule}");
    support::eventually("the worker tells its tasks", Duration::from_secs(20), || async {
        let found = get(&site, "/api/v1/schedules").await;
        (found["schedules"][0]["registered"] == true).then_some(())
    })
    .await;

    // A call sent by hand, and its outcome.
    let named = |action: &str| json!({"action": action, "schedule": "a/b <1>"});
    let (status, sent) = act(&site, named("run-schedule")).await;
    assert_eq!(status, 200, "{sent}");
    let path = "a%2Fb%20%3C1%3E";
    let run = support::eventually("it has succeeded", Duration::from_secs(20), || async {
        Some(last(&site, path).await).filter(|run| run["outcome"]["state"] == "SUCCESS")
    })
    .await;
    assert!(run["by_hand"] == true && !run["outcome"]["at"].is_null(), "{run}");
    let id = run["id"].as_str().expect("an id");
    assert!(sent["done"].as_str().is_some_and(|text| text.contains(id)), "{sent}");

    // The pages: user-supplied text is escaped, and forms are shown only to those who may act.
    let (status, page) = html(&site, "/schedules", "t0ken").await;
    assert!(status == 200 && page.contains("a/b &lt;1&gt;") && !page.contains("<1>"), "{page}");
    assert!(page.contains("put-schedule") && page.contains("success"), "{page}");
    let (_, seen) = html(&site, "/schedules", "l00k").await;
    assert!(seen.contains("a/b &lt;1&gt;") && !seen.contains("-schedule\""), "{seen}");
    let (status, page) = html(&site, &format!("/schedules/{path}"), "t0ken").await;
    assert!(status == 200 && page.contains(id) && page.contains("remove-schedule"), "{page}");
    let (_, seen) = html(&site, &format!("/schedules/{path}"), "l00k").await;
    assert!(seen.contains(id) && !seen.contains("-schedule\""), "{seen}");
    let (status, _) = html(&site, "/schedules/none", "l00k").await;
    assert_eq!(status, 404);
    let (_, task) = html(&site, &format!("/tasks/{id}"), "l00k").await;
    assert!(task.contains("Sent by schedule") && task.contains(path), "{task}");

    // Paused for a while, resumed, edited: omitted arguments keep their values.
    let pause = json!({"action": "pause-schedule", "schedule": "a/b <1>", "minutes": 5});
    assert_eq!(act(&site, pause).await.0, 200);
    let path_of_it = format!("/api/v1/schedules/{path}");
    let paused = get(&site, &path_of_it).await;
    assert!(paused["paused"] == true && !paused["paused_until"].is_null(), "{paused}");
    assert_eq!(act(&site, named("resume-schedule")).await.0, 200);
    let edit = json!({
        "action": "put-schedule", "name": "a/b <1>", "task": "dashboard.greet", "cron": "0 9 * * *", "tz": "Europe/Berlin",
    });
    assert_eq!(act(&site, edit).await.0, 200);
    let edited = get(&site, &path_of_it).await;
    assert_eq!((&edited["cron"], &edited["args"]), (&json!("0 9 * * *"), &json!(["ann"])), "{edited}");
    assert!(edited["paused"] == false && edited["every"].is_null(), "{edited}");

    // Actions are recorded without arguments, and invalid input is an error.
    for (action, status, words) in [
        (
            json!({"action": "put-schedule", "name": "x", "task": "t", "cron": "0 0 31 2 *"}),
            400,
            "it names a day",
        ),
        (json!({"action": "put-schedule", "name": "x", "task": "t"}), 400, "never due"),
        (
            json!({"action": "put-schedule", "name": "x", "task": "dashboard.greet", "every": "5m"}),
            400,
            "do not fit",
        ),
        (json!({"action": "run-schedule", "schedule": "none"}), 400, "there is no schedule `none`"),
        (json!({"action": "pause-schedule", "schedule": "none"}), 400, "there is no schedule `none`"),
    ] {
        let (found, answer) = act(&site, action.clone()).await;
        assert!(found == status && answer.to_string().contains(words), "{action}: {found} {answer}");
    }
    let (status, _) = ask(&site, "POST", "/api/v1/actions", Some("l00k"), Some(named("run-schedule"))).await;
    assert_eq!(status, 403);
    assert_eq!(act(&site, named("remove-schedule")).await.0, 200);
    let (status, _) = ask(&site, "GET", &path_of_it, Some("l00k"), None).await;
    assert_eq!(status, 404);
    let activity = get(&site, "/api/v1/activity").await.to_string();
    assert!(activity.contains("remove-schedule") && !activity.contains("ann"), "{activity}");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_of_schedules_are_hidden_and_outcomes_of_calls_of_a_scheduler_are_seen() {
    let site = Site::without_worker(|config| config.dashboard.redact = vec!["dashboard.*".into()]).await;
    let timing = Timing::every(Duration::from_secs(1)).expect("an interval");
    let schedule = Schedule::new("often", "dashboard.greet", timing).arg("secret").queue("greetings");
    site.app.schedules().put(schedule).await.expect("put");
    let beat = Beat::new(site.app.clone()).expect("a scheduler");
    let handle = beat.handle();
    let beating = tokio::spawn(beat.run());
    let run =
        support::eventually("a call is sent, and the history knows it", Duration::from_secs(20), || async {
            Some(last(&site, "often").await).filter(|run| run["outcome"]["state"] == "PENDING")
        })
        .await;
    handle.stop();
    beating.await.expect("no panic").expect("it stopped");
    assert!(run["by_hand"] == false && !run["sent_at"].is_null(), "{run}");
    let found = get(&site, "/api/v1/schedules/often").await;
    assert!(found["args"] == "hidden" && !found.to_string().contains("secret"), "{found}");
    for path in ["/schedules", "/schedules/often"] {
        let (status, page) = html(&site, path, "t0ken").await;
        assert!(status == 200 && !page.contains("secret"), "{page}");
    }
}
