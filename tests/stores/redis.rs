//! Redis.

use std::future::IntoFuture;
use std::time::Duration;

use mq_worker::{App, Config, TlsOptions};
use support::authority::{Authority, Purpose};
use support::redis::{Redis, is_installed};
use support::{unique, within};

use super::{LIMIT, fails_alone, open, open_with, refusal, store_in_the_end, success, survives, works};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_right_or_wrong_or_missing() {
    if !is_installed(file!()) {
        return;
    }
    let server = Redis::start_with(Some("secret"), &[]);
    works(&open(&server.url()).await).await;
    for (login, part, mended) in
        [("", "wants a password", "nopass"), (":secret2@", "refuses the user or the password", ">secret2")]
    {
        let store = open(&format!("redis://{login}{}/0", server.address())).await;
        let error = refusal(&store).await;
        assert!(error.is_access_refused() && error.to_string().contains(part), "{error:#}");
        // The mistake is corrected on the server: no program needs a restart.
        server.cli(&["ACL", "SETUSER", "default", mended]);
        store_in_the_end(&store, &success(&unique("task"))).await;
        works(&store).await;
        server.cli(&["ACL", "SETUSER", "default", "resetpass", ">secret"]);
    }
    let error = refusal(&open(&server.url().replace("/0", "/99")).await).await;
    assert!(error.to_string().contains("no database of this number"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_authority_vouches_for_the_server() {
    if !is_installed(file!()) {
        return;
    }
    let authority = Authority::create();
    authority.sign("server", &["localhost"], Purpose::ServerAuth);
    let server = Redis::start_secure(&authority);
    let trusting = TlsOptions { ca_file: Some(authority.file("ca.pem")), ..TlsOptions::default() };
    works(&open_with(&server.url(), trusting.clone()).await).await;
    let error = refusal(&open(&server.url()).await).await;
    assert!(error.is_connection() && error.to_string().contains("certificate"), "{error:#}");
    let elsewhere = server.url().replace("localhost", "127.0.0.1");
    let error = refusal(&open_with(&elsewhere, trusting).await).await;
    assert!(error.is_connection() && error.to_string().contains("certificate"), "another host: {error:#}");
    let plain = server.url().replace("rediss", "redis");
    assert!(refusal(&open(&plain).await).await.is_connection(), "the server speaks nothing but TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_and_a_prefix_keep_programs_apart() {
    if !is_installed(file!()) {
        return;
    }
    let server = Redis::start();
    let id = unique("task");
    let base = format!("redis://{}", server.address());
    let plain = open(&format!("{base}/0")).await;
    let numbered = open(&format!("{base}/1")).await;
    let prefixed = open(&format!("{base}/0?key_prefix=shop")).await;
    numbered.store(&success(&id), None).await.expect("stored");
    assert_eq!(server.cli(&["-n", "1", "KEYS", "*"]), format!("celery-task-meta-{id}"));
    prefixed.store(&success(&id), None).await.expect("stored");
    assert_eq!(server.cli(&["KEYS", "*"]), format!("shop_celery-task-meta-{id}"));
    assert!(plain.fetch(&id).await.expect("an answer").is_none());
    works(&prefixed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_no_result_and_no_waiting_caller() {
    if !is_installed(file!()) {
        return;
    }
    let mut server = Redis::start();
    let url = server.url();
    survives(&url, TlsOptions::default(), move || {
        server.kill9();
        std::thread::sleep(Duration::from_millis(300));
        server.launch();
        // Keep the server running until the test is over.
        std::mem::forget(server);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_the_primary_before_and_after_a_failover() {
    if !is_installed(file!()) {
        return;
    }
    let mut primary = Redis::start_with(Some("secret"), &[]);
    let port = primary.port().to_string();
    let replica = Redis::start_with(Some("secret"), &["--replicaof", "127.0.0.1", &port]);
    let sentinel = Redis::start_sentinel(&primary);
    let url =
        |name: &str| format!("sentinel://:secret@127.0.0.1:1,{}/0?master_name={name}", sentinel.address());
    let error = refusal(&open(&url("another")).await).await;
    assert!(error.is_connection() && error.to_string().contains("`master_name`"), "{error:#}");
    support::eventually_blocking("the replica is known and up to date", super::LIMIT, || {
        let known = sentinel.cli(&["SENTINEL", "REPLICAS", "primary"]).contains(&replica.port().to_string());
        let is_linked = replica.cli(&["INFO", "replication"]).contains("master_link_status:up");
        (known && is_linked).then_some(())
    });
    let error = refusal_of_storing(&replica).await;
    assert!(error.is_storage() && error.to_string().contains("it is a replica"), "{error:#}");
    survives(&url("primary"), TlsOptions::default(), move || {
        // Wait until acknowledged writes are on the replica: otherwise a failover may lose the last moments.
        primary.cli(&["WAIT", "1", "2000"]);
        primary.kill9();
    })
    .await;
    assert!(replica.cli(&["INFO", "replication"]).contains("role:master"), "it took over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_a_timeout_waits_out_an_outage_and_one_without_gets_an_error() {
    if !is_installed(file!()) {
        return;
    }
    let mut server = Redis::start();
    let broker_url = "memory://stores".parse().expect("a URL");
    let result_backend = Some(server.url().parse().expect("a URL"));
    let app = App::new(Config { broker_url, result_backend, ..Config::default() }).expect("an application");
    let job = app.result::<i64>("later").await.expect("a handle");
    server.kill9();
    let error = within("the error", LIMIT, job.get().into_future()).await.expect_err("it is away");
    assert!(error.is_connection(), "{error:#}");
    let error = job.get().timeout(Duration::from_millis(300)).await.expect_err("it is still away");
    assert!(error.is_timeout() && format!("{error:#}").contains("cannot be reached"), "{error:#}");
    let mut waiting = job.get().timeout(LIMIT).into_future();
    assert!(futures_util::poll!(&mut waiting).is_pending());
    server.launch();
    store_in_the_end(&open(&server.url()).await, &success("later")).await;
    assert_eq!(waiting.await.expect("a result"), 42);
    let waiting = tokio::spawn(async move { job.get().timeout(LIMIT).await.map(drop) });
    waiting.await.expect("no panic").expect("it is there");
    let job = app.result::<i64>("never").await.expect("a handle");
    app.close().await;
    let error = within("the error", LIMIT, job.get().timeout(LIMIT * 2).into_future()).await;
    assert!(error.expect_err("it was closed").is_connection());
}

async fn refusal_of_storing(server: &Redis) -> mq_worker::Error {
    let store = open(&server.url()).await;
    store.store(&success(&unique("task")), None).await.expect_err("it takes no writes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_full_says_so_and_takes_results_when_it_has_room() {
    if !is_installed(file!()) {
        return;
    }
    let server = Redis::start();
    let store = open(&server.url()).await;
    works(&store).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = refusal_of_storing(&server).await;
    assert!(error.is_storage() && error.to_string().contains("no memory left"), "{error:#}");
    assert!(!error.is_permanent());
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    works(&store).await;
    // Keys that are not results.
    server.cli(&["LPUSH", "celery-task-meta-list", "x"]);
    server.cli(&["SET", "celery-task-meta-text", "hello"]);
    let error = store.fetch("list").await.expect_err("it is a list");
    assert!(error.is_codec() && error.to_string().contains("another program wrote it"), "{error:#}");
    let error = store.fetch("text").await.expect_err("it is a text");
    assert!(error.is_codec() && error.to_string().contains("`celery-task-meta-text`"), "{error:#}");
    let error = fails_alone(&store, "list").await;
    assert!(error.to_string().contains("another program wrote it"), "{error:#}");
    let odd = "näme / with \"odd\" * letters\n";
    store.store(&success(odd), None).await.expect("stored");
    assert!(store.fetch(odd).await.expect("an answer").is_some());
}
