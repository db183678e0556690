//! The tables: created and migrated by the first process that connects, under a lock.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::failure::describe;
use crate::error::{Error, Result};

/// One script per version: the first `n` have been applied to a database of version `n`.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE mq_worker_result (
        task_id text PRIMARY KEY,
        is_final boolean NOT NULL,
        record bytea NOT NULL,            -- Celery's JSON: convert_from(record, 'UTF8')
        stored_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz
    );
    CREATE INDEX mq_worker_result_by_expiry ON mq_worker_result (expires_at);
"];

/// The key of the advisory lock: an arbitrary number that other programs are unlikely to use.
const LOCK: i64 = 0x6d71_776b_7273_6c74;

const WHAT: &str = "prepare the tables for results";

/// Ensures that the tables exist in the current version.
pub(super) async fn prepare(client: &Client, shown: &str) -> Result<()> {
    let failed = |error| describe(shown, WHAT, error);
    // If they are up to date, neither the lock nor the privilege to create them is needed.
    if is_current(version(client).await.map_err(failed)?, shown)? {
        return Ok(());
    }
    let steps = migrate(client, shown).await;
    if steps.is_err() {
        // The connection returns to the pool and must not be left in a transaction.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    steps
}

async fn migrate(client: &Client, shown: &str) -> Result<()> {
    let failed = |error| describe(shown, WHAT, error);
    client.batch_execute("BEGIN").await.map_err(failed)?;
    // Held by the transaction, not the session, so that it works through a connection pooler.
    client.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await.map_err(failed)?;
    // Another process may have migrated the tables in the meantime.
    let found = version(client).await.map_err(failed)?;
    if !is_current(found, shown)? {
        if found == 0 && exists(client, "mq_worker_result").await.map_err(failed)? {
            return Err(Error::config(format!(
                "cannot {WHAT}: {shown} has a table `mq_worker_result` that another program has made: drop or rename it, \
                 or name another database"
            )));
        }
        for script in &MIGRATIONS[found..] {
            client.batch_execute(script).await.map_err(failed)?;
        }
        let note = format!(
            "CREATE TABLE IF NOT EXISTS mq_worker_schema (version integer NOT NULL);
             DELETE FROM mq_worker_schema;
             INSERT INTO mq_worker_schema VALUES ({});",
            MIGRATIONS.len()
        );
        client.batch_execute(&note).await.map_err(failed)?;
    }
    client.batch_execute("COMMIT").await.map_err(failed)
}

fn is_current(found: usize, shown: &str) -> Result<bool> {
    let known = MIGRATIONS.len();
    if found > known {
        return Err(Error::config(format!(
            "cannot {WHAT}: those in {shown} are of version {found}, and this program knows {known}: a newer mq-worker \
             has made them; update this program"
        )));
    }
    Ok(found == known)
}

/// Returns the version of the tables, 0 if there are none of ours.
async fn version(client: &Client) -> Result<usize, tokio_postgres::Error> {
    if !exists(client, "mq_worker_schema").await? {
        return Ok(0);
    }
    let rows = match client.simple_query("SELECT version FROM mq_worker_schema").await {
        // Another program's table, or a half-created one.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => return Ok(0),
        rows => rows?,
    };
    let version = rows.iter().find_map(|row| match row {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    Ok(version.unwrap_or(0))
}

async fn exists(client: &Client, table: &str) -> Result<bool, tokio_postgres::Error> {
    // Not `to_regclass`: it remembers within a transaction that a table was missing, even after another process created it.
    let query = "SELECT oid FROM pg_class WHERE relname = $1 AND relkind = 'r' AND pg_table_is_visible(oid)";
    Ok(!client.query_typed(query, &[(&table, Type::TEXT)]).await?.is_empty())
}
