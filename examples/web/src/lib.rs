//! The tasks, in a library of their own: the web service sends them, the worker runs them.

use std::time::Duration;

use mq_worker::{Context, SharedState, TaskError, setup, task};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// What a customer orders.
#[derive(Clone, Serialize, Deserialize)]
pub struct Order {
    pub customer: String,
    pub months: u32,
}

/// What the customer gets.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub customer: String,
    pub months: u32,
    pub total: u64,
}

/// Adds up the sales of the last months.
#[task(queue = "reports", max_retries = 3, time_limit = "5m", track_started)]
pub async fn build_report(ctx: &Context, order: Order) -> Result<Report, TaskError> {
    let Order { customer, months } = order;
    if !(1..=120).contains(&months) {
        // Not tried again: it would fail each time.
        return Err(TaskError::reject("a report covers 1 to 120 months"));
    }
    let sales = ctx.state::<Sales>();
    let mut total = 0;
    for month in 1..=months {
        total += sales.of_month(&customer, month).await;
        ctx.progress(month.into(), months.into(), format!("month {month}"));
    }
    Ok(Report { customer, months, total })
}

/// Stands in for a pool of database connections, such as `deadpool_postgres::Pool`.
pub struct Sales {
    connections: Semaphore,
}

/// Opens the pool, once in each worker. All of its tasks share it.
#[setup]
pub async fn open_sales(state: &mut SharedState) {
    state.insert(Sales { connections: Semaphore::new(4) });
}

impl Sales {
    async fn of_month(&self, customer: &str, month: u32) -> u64 {
        let _connection = self.connections.acquire().await.expect("the pool is never closed");
        tokio::time::sleep(Duration::from_millis(100)).await;
        1000 * customer.len() as u64 + u64::from(month)
    }
}
