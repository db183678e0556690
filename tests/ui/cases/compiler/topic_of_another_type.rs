use mq_worker::{Topic, task};

const ORDERED: Topic<u64> = Topic::new("ordered");

#[task(queue = "stock", topic = ORDERED)]
async fn reserve(_order: String) {}

#[task(queue = "stock", topic = "ordered.*", topic = NO_SUCH_TOPIC)]
async fn unknown(_order: u64) {}

async fn emit(app: &mq_worker::App) {
    let _ = app.emit(ORDERED, "text").await;
}

fn main() {
    let _ = (reserve.with("x"), unknown.with(1), emit);
}
