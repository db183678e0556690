//! PostgreSQL.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mq_worker::TlsOptions;
use mq_worker::backend::Awaited;
use support::authority::{Authority, Purpose};
use support::pooler::{self, Pooler};
use support::postgres::{Postgres, is_installed, shared_server};
use support::{unique, within};

use super::{fails_alone, open, open_with, refusal, success, survives, works};

/// Starts a server that requires TLS and, over TCP, a password.
fn guarded(authority: &Authority) -> Postgres {
    authority.sign("server", &["localhost"], Purpose::ServerAuth);
    let mut server = Postgres::start_with(|data: &Path| {
        for (from, to) in [("server.pem", "server.crt"), ("server.key", "server.key")] {
            fs::copy(authority.file(from), data.join(to)).expect("copied");
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(data.join("server.key"), mode).expect("private");
        let add = |file: &str, text: &str| {
            let old = fs::read_to_string(data.join(file)).expect("a file");
            fs::write(data.join(file), old + text).expect("written");
        };
        add("postgresql.conf", "\nssl = on\n");
        fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n",
        )
        .expect("written");
    });
    server.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'secret'");
    server.sql("postgres", "CREATE DATABASE shop OWNER app");
    // Written data survives a power cut.
    server.crash();
    server.launch();
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_certificate_and_encryption_are_checked_and_a_restart_costs_no_result() {
    if !is_installed(file!()) {
        return;
    }
    let authority = Authority::create();
    let mut server = guarded(&authority);
    let trusting = TlsOptions { ca_file: Some(authority.file("ca.pem")), ..TlsOptions::default() };
    let url =
        |login: &str, host: &str, rest: &str| format!("postgres://{login}@{host}:{}/{rest}", server.port());
    let good = url("app:secret", "localhost", "shop?sslmode=require");
    works(&open_with(&good, trusting.clone()).await).await;
    for (login, place, parts) in [
        ("app:secret2", "shop", ["refuses the password", "password"]),
        ("app", "shop", ["wants a password", "postgres://USER:PASSWORD@HOST/DATABASE"]),
        ("app:secret", "nothing", ["has no such database", "create it first"]),
        ("app:secret", "shop?sslmode=disable", ["refuses the user", "pg_hba.conf"]),
    ] {
        let error = refusal(&open_with(&url(login, "localhost", place), trusting.clone()).await).await;
        let text = format!("{error:#}");
        assert!(error.is_access_refused() && parts.iter().all(|part| text.contains(part)), "{text}");
    }
    let error = refusal(&open(&good).await).await;
    assert!(error.is_connection() && format!("{error:#}").contains("certificate"), "{error:#}");
    let other = url("app:secret", "127.0.0.1", "shop?sslmode=require");
    let error = refusal(&open_with(&other, trusting.clone()).await).await;
    assert!(error.is_connection() && format!("{error:#}").contains("certificate"), "another host: {error:#}");

    let url = good.clone();
    survives(&url, trusting, move || {
        server.crash();
        std::thread::sleep(Duration::from_millis(300));
        server.launch();
        // Keep the server running until the test is over.
        std::mem::forget(server);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_refuses_writes_is_an_error_with_the_reason_and_is_used_once_it_accepts_them() {
    let Some(server) = shared_server(file!()) else { return };
    let name = server.create_database();
    let url = server.url_of(&name);
    let read_only = |on: &str| {
        server.sql("postgres", &format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}"));
    };
    read_only("on");
    let store = open(&url).await;
    let error = refusal(&store).await;
    assert!(error.is_storage() && error.to_string().contains("is read-only"), "{error:#}");
    read_only("off");
    // Existing connections got the old setting when they were opened.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
    server.sql("postgres", &format!("{end} AND datname = '{name}'"));
    super::store_in_the_end(&store, &success(&unique("task"))).await;
    works(&store).await;
    server.sql(
        &name,
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER no_room BEFORE INSERT ON mq_worker_result EXECUTE FUNCTION fill()",
    );
    let error = store.store(&success(&unique("task")), None).await.expect_err("it is full");
    assert!(error.is_storage() && error.to_string().contains("no room left on its disk"), "{error:#}");
    assert!(!error.is_permanent());
    server.sql(&name, "DROP TRIGGER no_room ON mq_worker_result");
    works(&store).await;
    for (id, part) in
        [("with\0a NUL".to_owned(), "cannot store this text"), ("long".repeat(3000), "too long")]
    {
        let error = fails_alone(&store, &id).await;
        assert!(error.to_string().contains(part), "{error:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_another_program_or_another_version_are_left_alone() {
    let Some(server) = shared_server(file!()) else { return };
    let name = server.create_database();
    server.sql(
        &name,
        "CREATE TABLE mq_worker_result (mine text); INSERT INTO mq_worker_result VALUES ('kept')",
    );
    let error = refusal(&open(&server.url_of(&name)).await).await;
    assert!(error.is_config() && error.to_string().contains("another program has made"), "{error:#}");
    assert_eq!(server.sql(&name, "SELECT mine FROM mq_worker_result"), "kept");

    let name = server.create_database();
    let store = open(&server.url_of(&name)).await;
    works(&store).await;
    server.sql(&name, "UPDATE mq_worker_schema SET version = 99");
    let error = refusal(&open(&server.url_of(&name)).await).await;
    assert!(error.is_config() && error.to_string().contains("of version 99"), "{error:#}");
    // The table is dropped while programs use it.
    server.sql(&name, "DROP TABLE mq_worker_result");
    let error = store.fetch("id").await.expect_err("there is no table");
    assert!(error.is_storage() && error.to_string().contains("was it dropped"), "{error:#}");
    server.sql(
        &name,
        "CREATE ROLE reader LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC; DROP TABLE mq_worker_schema",
    );
    let reader = server.url_of(&name).replace("postgres@", "reader@");
    let error = refusal(&open(&reader).await).await;
    assert!(error.is_access_refused() && error.to_string().contains("the right to create it"), "{error:#}");
    server.sql(&name, "DROP ROLE reader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_works_in_session_mode_and_waiting_is_unsupported_in_transaction_mode() {
    if !pooler::is_installed(file!()) {
        return;
    }
    let Some(server) = shared_server(file!()) else { return };
    let name = server.create_database();
    let pooler = Pooler::start(server, "session");
    works(&open(&pooler.url_of(&name)).await).await;
    let pooler = Pooler::start(server, "transaction");
    let store = open(&pooler.url_of(&name)).await;
    let ids: Vec<String> = (0..50).map(|_| unique("task")).collect();
    for done in futures_util::future::join_all(ids.iter().map(|id| async {
        store.store(&success(id), None).await?;
        store.fetch(id).await
    }))
    .await
    {
        assert!(done.expect("through the pooler").is_some());
    }
    let waited = within("the refusal", super::LIMIT, store.wait("id", Awaited::Final)).await;
    let error = waited.expect_err("nothing is received");
    assert!(error.is_unsupported() && error.to_string().contains("pooler in transaction mode"), "{error:#}");
}
