//! Orders and stock, decoupled by an event: while stock is down its events wait, and nothing is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mq_worker::{App, Emitted, Topic, Worker, WorkerHandle, task};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

#[derive(Serialize, Deserialize)]
struct Order {
    id: u32,
    item: String,
}

/// An order was paid; the word in the middle is the country. Both sides use this constant, so that their types
/// cannot differ.
const ORDER_PAID: Topic<Order> = Topic::new("order.*.paid");

/// The number of orders for which stock has been reserved.
static RESERVED: AtomicU64 = AtomicU64::new(0);

// The service "stock". The service that takes orders does not know about it.
#[task(queue = "stock", topic = ORDER_PAID)]
async fn reserve(order: Order) {
    println!("stock: reserved {} for order {}", order.item, order.id);
    RESERVED.fetch_add(1, Ordering::Relaxed);
}

fn start_stock() -> mq_worker::Result<(WorkerHandle, JoinHandle<mq_worker::Result<mq_worker::Summary>>)> {
    let worker = Worker::new(App::global()?)?;
    Ok((worker.handle(), tokio::spawn(worker.run())))
}

async fn stop(
    (handle, working): (WorkerHandle, JoinHandle<mq_worker::Result<mq_worker::Summary>>),
) -> mq_worker::Result<u64> {
    handle.stop();
    Ok(working.await.expect("a worker does not panic")?.succeeded)
}

async fn pay(id: u32, item: &str) -> mq_worker::Result<Emitted> {
    App::global()?.emit(ORDER_PAID.at("eu"), &Order { id, item: item.into() }).await
}

/// How many orders wait for stock.
async fn waiting() -> mq_worker::Result<u64> {
    let broker = App::global()?.broker().await?;
    let queues = broker.queues(&["stock".into()]).await?;
    Ok(queues.first().map_or(0, |queue| queue.ready))
}

async fn reserved(orders: u64) {
    while RESERVED.load(Ordering::Relaxed) < orders {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    println!("before stock was ever there, an order is {:?}", pay(0, "a lost cup").await?);
    let stock = start_stock()?;
    while pay(1, "tea").await? == Emitted::Unrouted {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    reserved(1).await;
    stop(stock).await?;
    println!("stock is down");
    for id in 2..=6 {
        println!("shop: order {id} is {:?}", pay(id, "a cup").await?);
    }
    println!("{} orders wait", waiting().await?);
    let stock = start_stock()?;
    reserved(6).await;
    println!("stock caught up with {}", stop(stock).await?);
    Ok(())
}
