use mq_worker::task;

#[task(
    name = send,
    queue = 1,
    max_retries = "5",
    backoff = 10,
    time_limit = 30,
    ack = late,
    priority = 256,
    expires = "soon",
    ignore_result = "yes",
    topic = 'x',
    broadcast = 1
)]
async fn every_option_wrong(_user: u64) {}

#[task(queue, max_retries = , ack = "never", max_retries = -1, topic = [])]
async fn values_missing(_user: u64) {}

fn main() {
    let _ = (every_option_wrong.with(1), values_missing.with(1));
}
