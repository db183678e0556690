use mq_worker::task;

#[task(broadcast, topic = "config.changed")]
async fn reload() {}

fn main() {
    let _ = reload.delay();
}
