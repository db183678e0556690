//! Orders and stock, decoupled by an event: while stock is down its events wait, and nothing is lost.

use mq_worker::{App, Emitted, Topic, Worker, WorkerHandle, task};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

#[derive(Serialize, Deserialize)]
struct Order {
    id: u32,
    item: String,
}

/// An order was paid; the word in the middle is the country. Both sides name this constant, so that neither can
/// mistake the type.
const ORDER_PAID: Topic<Order> = Topic::new("order.*.paid");

// The service "stock". The one that takes orders does not know it.
#[task(queue = "stock", topic = ORDER_PAID)]
async fn reserve(order: Order) {
    println!("stock: reserved {} for order {}", order.item, order.id);
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

/// How many orders wait, and how many stock has received and not finished.
async fn in_stock() -> mq_worker::Result<(u64, u64)> {
    let broker = App::global()?.broker().await?;
    let queues = broker.queues(&["stock".into()]).await?;
    Ok(queues.first().map_or((0, 0), |queue| (queue.ready, queue.running.unwrap_or(0))))
}

#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    println!("before stock was ever there, an order is {:?}", pay(0, "a lost cup").await?);
    let stock = start_stock()?;
    while pay(1, "tea").await? == Emitted::Unheard {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    while in_stock().await? != (0, 0) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    stop(stock).await?;
    println!("stock is down");
    for id in 2..=6 {
        println!("shop: order {id} is {:?}", pay(id, "a cup").await?);
    }
    println!("{} orders wait", in_stock().await?.0);
    let stock = start_stock()?;
    while in_stock().await? != (0, 0) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    println!("stock caught up with {}", stop(stock).await?);
    Ok(())
}
