use mq_worker::task;

#[task(queue = "", name = "", topic = "")]
async fn empty() {}

#[task(
    queue = "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
)]
async fn too_long() {}

#[task(queue = "amq.mine", name = "new\nline")]
async fn reserved() {}

#[task(topic = "order*.paid", topic = "a.#", topic = ["b", "a.#"])]
async fn topics() {}

fn main() {
    let _ = (empty.with(), too_long.with(), reserved.with(), topics.with());
}
