use mq_worker::task;

#[task(queue = "email", max_retries = 1, queue = "sms", max_retries = 2)]
async fn twice(_user: u64) {}

#[task]
#[task(queue = "email")]
async fn attribute_twice(_user: u64) {}

fn main() {
    let _ = (twice.with(1), attribute_twice.with(1));
}
