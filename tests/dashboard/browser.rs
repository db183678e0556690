//! The page as people use it.

use mq_worker::{Schedule, Timing};
use support::browser::{Browser, Look, may_start};

use super::api::act;
use super::site::Site;

const FILE: &str = "tests/dashboard";
const HOSTILE: &str = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>";

// Special keys, as WebDriver encodes them.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_with_their_password_and_see_what_their_role_allows() {
    if !may_start(FILE) {
        return;
    }
    let site = Site::start().await;
    let id = site.greet("nobody").await;
    let browser = Browser::start(Look::Light).await;
    browser.open(&site.url("/queues?x=1")).await;
    browser.fill("input[name=name]", "viv").await;
    browser.fill("input[name=password]", "wrong").await;
    browser.click("button[type=submit]").await;
    browser.wait_for("[role=alert]", "Name or password is wrong").await;

    browser.fill("input[name=password]", "battery staple").await;
    browser.click("button[type=submit]").await;
    browser.wait_for("h1", "Queues").await;
    browser.open(&site.url("/queues/greetings")).await;
    browser.wait_for("h1", "greetings").await;
    assert_eq!(browser.text(".heading .actions").await, "", "nothing to act with");
    browser.open(&site.url(&format!("/tasks/{id}"))).await;
    browser.wait_for("#facts", "dead").await;
    assert!(!browser.text("main").await.contains("Replay"));

    // A request that the page does not offer is refused as well.
    let sent = |csrf: &str| {
        format!(
            "fetch('/act', {{method: 'POST', redirect: 'manual', headers: {{'content-type': \
             'application/x-www-form-urlencoded'}}, body: 'action=purge-queue&queue=greetings.dead&csrf=' + {csrf}}})\
             .then((answer) => answer.status)"
        )
    };
    let own = "document.querySelector('[name=csrf]').value";
    assert_eq!(browser.promise(&sent(own)).await, 403, "the role is view");
    assert_eq!(browser.promise(&sent("'guess'")).await, 403, "not a form of the page");

    browser.click("form[action='/logout'] button").await;
    browser.wait("input[name=password]").await;
    browser.open(&site.url("/tasks")).await;
    browser.wait("input[name=password]").await;

    site.log_in(&browser, "ada", "/login").await;
    assert_eq!(browser.promise(&sent("'guess'")).await, 403, "not a form of the page");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_follows_what_happens_and_finds_it_again() {
    if !may_start(FILE) {
        return;
    }
    let site = Site::start().await;
    let browser = Browser::start(Look::Light).await;
    site.log_in(&browser, "ada", "/tasks").await;
    browser.script("window.same = true").await;
    site.greet("grace").await;
    site.greet("busy").await;
    let slow = site.greet("slow").await;
    browser.wait_for("#calls", "grace").await;
    browser.wait_for("#calls", "busy").await;
    browser.wait_for("#calls", "started").await;
    assert_eq!(browser.script("return window.same").await, true, "it was not loaded again");

    browser.open(&site.url("/workers/greeter%40host-1")).await;
    browser.wait_for("#tasks", "dashboard.greet").await;
    browser.open(&site.url(&format!("/tasks/{slow}"))).await;
    browser.wait_for("#timeline", "running").await;
    browser.wait_for("main", "Terminate").await;
    // In a single script, because the live page replaces its elements as it updates.
    let terminate = "const asks = [...document.querySelectorAll('details.ask')];
        const ask = asks.find(ask => ask.textContent.includes('Terminate'));
        ask.querySelector('summary').click(); ask.querySelector('button').click()";
    browser.script(terminate).await;
    browser.wait_for(".notice", "revoked, and stopped").await;
    browser.wait_for("#facts", "revoked").await;

    // One schedule is added elsewhere, another has a task that no worker knows.
    browser.open(&site.url("/schedules")).await;
    browser.wait_for("#schedules", "No schedules yet").await;
    browser.script("window.same = true").await;
    let yearly = Timing::cron("@yearly").expect("an expression");
    for (name, task) in [("greetings", "dashboard.greet"), ("wrong", "dashboard.great")] {
        site.app.schedules().put(Schedule::new(name, task, yearly.clone()).arg("ann")).await.expect("put");
    }
    browser.wait_for("#schedules tbody tr:last-child", "no worker").await;
    assert!(!browser.text("#schedules tbody tr:first-child").await.contains("no worker"));
    assert_eq!(browser.script("return window.same").await, true, "it was not loaded again");
    browser.open(&site.url("/schedules/wrong")).await;
    browser.wait_for("#facts", "no worker").await;
    site.app.schedules().pause("wrong", None).await.expect("paused");
    browser.wait_for("#facts", "paused").await;

    browser.open(&site.url("/tasks")).await;
    browser.fill("input[name=text]", "grace").await;
    browser.type_keys(ENTER).await;
    browser.wait_for("#calls", "grace").await;
    assert!(!browser.text("#calls").await.contains("busy"));
    browser.open(&site.url("/tasks?state=SUCCESS&name=dashboard.*")).await;
    browser.wait_for("#calls", "busy").await;
    assert!(!browser.text("#calls").await.contains("slow"));
    browser.open(&site.url("/tasks?state=nonsense")).await;
    browser.wait_for("#calls", "no state `nonsense`").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_with_changes_and_together() {
    if !may_start(FILE) {
        return;
    }
    let site = Site::start().await;
    let id = site.greet("nobody").await;
    site.greet("nobody").await;
    let browser = Browser::start(Look::Light).await;
    site.log_in(&browser, "ada", "/tasks").await;
    browser.wait_for("#calls", "there is nobody to greet").await;

    browser.open(&site.url(&format!("/tasks/{id}"))).await;
    browser.wait_for("#facts", "dead").await;
    browser.wait_for("#timeline", "there is nobody to greet").await;
    browser.fill("textarea[name=args]", "[\"somebody\"").await;
    browser.click(".edit button.primary").await;
    browser.wait_for("[role=alert]", "not a JSON array").await;
    browser.fill("textarea[name=args]", "[\"somebody\"]").await;
    browser.click(".edit button.primary").await;
    browser.wait_for("[role=status]", "sent as").await;
    browser.open(&site.url("/tasks?text=somebody&state=SUCCESS")).await;
    browser.wait_for("#calls", "somebody").await;

    browser.open(&site.url("/dead")).await;
    browser.wait_for(".groups", "there is nobody to greet").await;
    assert!(browser.text(".groups .count").await.contains('2'));
    browser.click(".groups .actions form button").await;
    browser.wait_for("[role=status]", "2 dead letters replayed").await;
    // They fail again and are dropped; dropping asks for confirmation first.
    support::eventually("both are dead again", std::time::Duration::from_secs(15), || async {
        let queues = site.app.broker().await.ok()?.queues(&["greetings.dead".into()]).await.ok()?;
        (queues.first()?.ready == 2).then_some(())
    })
    .await;
    // The page's view of the broker may lag a moment.
    support::eventually("the page shows them", std::time::Duration::from_secs(15), || async {
        browser.open(&site.url("/dead")).await;
        browser.text(".groups .count").await.contains('2').then_some(())
    })
    .await;
    browser.click(".groups summary").await;
    browser.wait_for(".groups .panel", "Drop 2 dead letters permanently?").await;
    browser.click(".groups .panel button").await;
    browser.wait_for("[role=status]", "2 dead letters dropped").await;
    browser.wait_for("main", "No dead letters").await;

    browser.open(&site.url("/queues/greetings")).await;
    browser.script("document.querySelector('.ask summary').click()").await;
    browser.click(".ask[open] button").await;
    browser.wait_for("[role=status]", "is paused until it is resumed").await;
    let waiting = site.greet("patience").await;
    browser.open(&site.url("/tasks?text=patience")).await;
    browser.wait_for("#calls", "patience").await;
    browser.open(&site.url(&format!("/tasks/{waiting}"))).await;
    browser.wait_for("#reasons", "paused").await;
    browser.open(&site.url("/queues/greetings")).await;
    browser.wait_for("#facts", "paused").await;
    browser.click(".heading .actions form button").await;
    browser.wait_for("[role=status]", "resumed").await;
    browser.open(&site.url("/tasks?text=patience&state=SUCCESS")).await;
    browser.wait_for("#calls", "patience").await;

    browser.open(&site.url("/activity")).await;
    for done in ["send", "replay dead", "drop dead", "pause", "resume"] {
        browser.wait_for("#trail", done).await;
    }
    browser.wait_for("#trail", "ada").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_input_is_escaped_and_no_other_host_is_contacted() {
    if !may_start(FILE) {
        return;
    }
    let site = Site::start().await;
    let options = || mq_worker::SendOptions { queue: Some("greetings".into()), ..Default::default() };
    let sent = site.app.send_task(HOSTILE, &(HOSTILE,), options()).await.expect("sent");
    let greeted = site.greet(HOSTILE).await;
    site.app
        .send_task(
            "waits",
            &(HOSTILE,),
            mq_worker::SendOptions { queue: Some("<b>odd</b>".into()), ..Default::default() },
        )
        .await
        .expect("sent");
    let browser = Browser::start(Look::Light).await;
    site.log_in(&browser, "ada", "/tasks").await;
    browser.wait_for("#calls", HOSTILE).await;
    let paths = [
        "/".to_owned(),
        "/queues".into(),
        "/queues/%3Cb%3Eodd%3C%2Fb%3E".into(),
        "/tasks".into(),
        format!("/tasks/{}", sent.id()),
        format!("/tasks/{greeted}"),
        "/tasks/%3Cscript%3Ewindow.pwned=3%3C%2Fscript%3E".into(),
        "/tasks?text=%3Cscript%3Ewindow.pwned=4%3C%2Fscript%3E&state=%22%3E%3Cscript%3E".into(),
        "/dead".into(),
        "/broker".into(),
        "/activity".into(),
        "/nothing/%3Cscript%3E".into(),
    ];
    for path in &paths {
        browser.open(&site.url(path)).await;
        browser.wait("h1").await;
        let seen = browser.script(
            "return [typeof window.pwned, performance.getEntriesByType('resource').filter((one) => \
             !one.name.startsWith(location.origin)).map((one) => one.name).join()]",
        );
        assert_eq!(seen.await, serde_json::json!(["undefined", ""]), "{path}");
    }
    browser.open(&site.url("/queues/%3Cb%3Eodd%3C%2Fb%3E")).await;
    browser.script("[...document.querySelectorAll('main form button')].find((one) => one.textContent.includes('Show')).click()").await;
    browser.wait_for("main", "as they wait").await;
    browser.click(".message summary").await;
    browser.wait_for(".message", "window.pwned").await;
    assert_eq!(browser.script("return typeof window.pwned").await, "undefined");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_telephone_and_a_keyboard_are_enough() {
    if !may_start(FILE) {
        return;
    }
    let site = Site::start().await;
    let id = site.greet("nobody").await;
    let schedule = serde_json::json!({
        "action": "put-schedule", "name": "greetings.every-morning", "task": "dashboard.greet", "cron": "0 9 * * mon-fri",
        "tz": "Europe/Berlin", "args": "[\"ann\"]", "queue": "greetings", "is_new": true,
    });
    assert_eq!(act(&site, schedule).await.0, 200);
    let browser = Browser::start(Look::Phone).await;
    site.log_in(&browser, "ada", "/tasks").await;
    browser.wait_for("#calls", "dead").await;
    let one = format!("/tasks/{id}");
    for path in [
        "/",
        "/tasks",
        &one,
        "/queues",
        "/queues/greetings",
        "/workers",
        "/workers/greeter%40host-1",
        "/dead",
        "/schedules",
        "/schedules/greetings.every-morning",
        "/broker",
        "/activity",
    ] {
        browser.open(&site.url(path)).await;
        browser.wait("h1").await;
        assert!(browser.fits().await, "{path} is wider than 360 pixels");
    }

    browser.open(&site.url("/queues/greetings")).await;
    browser.type_keys(TAB).await;
    assert_eq!(browser.script("return document.activeElement.className").await, "skip");
    browser.type_keys(ENTER).await;
    browser.type_keys(TAB).await;
    // The first control of the content asks for confirmation; Escape cancels.
    let focused = "return document.activeElement.tagName + ' ' + document.activeElement.textContent";
    assert_eq!(browser.script(focused).await, "SUMMARY Pause…");
    browser.type_keys(ENTER).await;
    browser.wait(".ask[open] .panel").await;
    assert_eq!(browser.script("return document.activeElement.name").await, "minutes");
    browser.type_keys(ESCAPE).await;
    assert_eq!(browser.script("return document.querySelectorAll('.ask[open]').length").await, 0);
    assert_eq!(browser.script(focused).await, "SUMMARY Pause…");
    browser.close().await;
}
