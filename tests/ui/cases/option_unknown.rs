use mq_worker::task;

#[task(qeue = "email")]
async fn near(_user: u64) {}

#[task(timeout = "30s")]
async fn of_another_library(_user: u64) {}

#[task(colour = "red")]
async fn nowhere_near(_user: u64) {}

#[task("email")]
async fn no_name(_user: u64) {}

#[task(queue("email"))]
async fn in_parentheses(_user: u64) {}

fn main() {
    let _ = (near.with(1), of_another_library.with(1), nowhere_near.with(1), no_name.with(1));
    let _ = in_parentheses.delay(1);
}
