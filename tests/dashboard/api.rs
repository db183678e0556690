//! Programs that use `/api/v1`.

use std::time::Duration;

use serde_json::{Value, json};

use super::site::Site;

/// Sends a request and returns status and answer.
pub(crate) async fn ask(
    site: &Site,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> (u16, Value) {
    let (url, method) = (site.url(path), method.to_owned());
    let token = token.map(|token| format!("Bearer {token}"));
    let asked = tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        let mut response = match method.as_str() {
            "GET" => {
                let request = agent.get(&url);
                let request = match &token {
                    Some(token) => request.header("authorization", token),
                    None => request,
                };
                request.call().expect("an answer")
            }
            _ => {
                let request = agent.post(&url);
                let request = match &token {
                    Some(token) => request.header("authorization", token),
                    None => request,
                };
                request.send_json(body.unwrap_or_default()).expect("an answer")
            }
        };
        let status = response.status().as_u16();
        (status, response.body_mut().read_json().unwrap_or_default())
    });
    asked.await.expect("no panic")
}

pub(crate) async fn get(site: &Site, path: &str) -> Value {
    let (status, answer) = ask(site, "GET", path, Some("l00k"), None).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

pub(crate) async fn act(site: &Site, action: Value) -> (u16, Value) {
    ask(site, "POST", "/api/v1/actions", Some("t0ken"), Some(action)).await
}

/// Waits until the page shows a call as dead.
async fn is_dead(site: &Site, id: &str) {
    let task = format!("/api/v1/tasks/{id}");
    support::eventually("it is dead", Duration::from_secs(20), || async {
        let (status, answer) = ask(site, "GET", &task, Some("l00k"), None).await;
        (status == 200 && !answer["dead_letter"].is_null()).then_some(())
    })
    .await;
}

pub(crate) async fn dead_letters(site: &Site, expected: u64) {
    support::eventually(&format!("{expected} dead letters"), Duration::from_secs(20), || async {
        let queues = site.app.broker().await.ok()?.queues(&["greetings.dead".into()]).await.ok()?;
        (queues.first()?.ready == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_sees_and_does_what_the_page_does() {
    let site = Site::start().await;
    let id = site.greet("nobody").await;
    is_dead(&site, &id).await;
    support::eventually("the worker replies", Duration::from_secs(20), || async {
        let workers = get(&site, "/api/v1/workers").await;
        (workers["workers"][0]["name"] == "greeter@host-1").then_some(())
    })
    .await;
    let overview = get(&site, "/api/v1/overview").await;
    assert_eq!(overview["broker"]["name"], "SQLite", "{overview}");
    assert_eq!(get(&site, "/api/v1/queues/greetings").await["name"], "greetings");
    assert_eq!(get(&site, "/api/v1/workers/greeter@host-1").await["queues"], json!(["greetings"]));
    let dead = get(&site, "/api/v1/dead").await;
    assert_eq!(dead["queues"][0]["groups"][0]["task"], "dashboard.greet", "{dead}");
    assert_eq!(
        get(&site, "/api/v1/dead/greetings?task=dashboard.greet").await["letters"][0]["id"],
        id.as_str()
    );
    for path in [
        "/api/v1/rates",
        "/api/v1/tasks?state=DEAD_LETTERED",
        "/api/v1/workers",
        "/api/v1/broker",
        "/api/v1/openapi.json",
    ] {
        get(&site, path).await;
    }

    let send =
        json!({"action": "send", "task": "dashboard.greet", "args": "[\"ben\"]", "queue": "greetings"});
    let (status, sent) = act(&site, send).await;
    assert_eq!(status, 200, "{sent}");
    support::eventually("ben is greeted", Duration::from_secs(20), || async {
        let found = get(&site, "/api/v1/tasks?text=ben&state=SUCCESS").await;
        (found["tasks"][0]["result"].as_str()?.contains("hello ben")).then_some(())
    })
    .await;
    let later = site.greet("later").await;
    let result = async |expected: &str| {
        let backend = site.app.backend().await.expect("a backend");
        support::eventually(&format!("its result is {expected}"), Duration::from_secs(20), || async {
            let record = backend.fetch(&later).await.expect("an answer")?;
            (record.state.as_str() == expected).then_some(())
        })
        .await;
    };
    is_dead(&site, &later).await;
    result("FAILURE").await;
    let (status, replayed) = act(&site, json!({"action": "replay", "ids": [id, later]})).await;
    assert_eq!((status, &replayed["done"]), (200, &json!("2 calls replayed.")), "{replayed}");
    // The outcome of an earlier run does not hide that of the replay.
    result("SUCCESS").await;
    dead_letters(&site, 1).await;
    let (status, dropped) = act(&site, json!({"action": "drop-dead", "queue": "greetings", "id": id})).await;
    assert_eq!((status, &dropped["done"]), (200, &json!("1 dead letter dropped.")), "{dropped}");
    let unknown = json!({"action": "replay", "ids": ["nobody"]});
    let (status, refused) = act(&site, unknown).await;
    assert_eq!((status, &refused["error"]), (422, &json!("the history knows no call nobody")), "{refused}");
    let activity = get(&site, "/api/v1/activity").await;
    assert_eq!(
        (&activity["activity"][0]["who"], &activity["activity"][1]["action"]),
        (&json!("deploy"), &json!("drop-dead"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_need_a_token_with_the_act_role() {
    let site = Site::without_worker(|config| config.dashboard.redact = vec!["dashboard.*".into()]).await;
    site.greet("secret").await;
    let purge = || Some(json!({"action": "purge-queue", "queue": "greetings"}));
    for (token, path, body, expected) in [
        (None, "/api/v1/actions", purge(), 401),
        (Some("guess"), "/api/v1/actions", purge(), 401),
        (Some("l00k"), "/api/v1/actions", purge(), 403),
        (None, "/api/v1/queues/greetings/peek", None, 401),
        // This broker can show messages without taking them.
        (Some("l00k"), "/api/v1/queues/greetings/peek", None, 200),
        (Some("t0ken"), "/api/v1/actions", Some(json!({"action": "explode"})), 422),
        (Some("t0ken"), "/api/v1/actions", Some(json!({"action": "purge-queue", "queue": "none"})), 422),
        (Some("t0ken"), "/api/v1/nothing", None, 404),
        (None, "/act", purge(), 303),
    ] {
        let (status, answer) = ask(&site, "POST", path, token, body).await;
        assert_eq!(status, expected, "{token:?} {path}: {answer}");
    }
    let (status, peeked) = ask(&site, "POST", "/api/v1/queues/greetings/peek", Some("t0ken"), None).await;
    assert_eq!(status, 200, "{peeked}");
    assert_eq!(peeked["messages"][0]["args"], "hidden", "{peeked}");
    assert!(!peeked.to_string().contains("secret"), "{peeked}");
    support::eventually("it is in the history", Duration::from_secs(20), || async {
        let found = get(&site, "/api/v1/tasks").await;
        let args = found["tasks"][0]["args"].as_str()?;
        (args == "hidden" && !found.to_string().contains("secret")).then_some(())
    })
    .await;
    let (status, _) = ask(&site, "GET", "/api/v1/tasks?from=yesterday", Some("l00k"), None).await;
    assert_eq!(status, 400);
}
