use mq_worker::task;
use std::rc::Rc;

#[task]
async fn wait(n: u64) -> u64 {
    let shared = Rc::new(n);
    std::future::ready(()).await;
    *shared
}

fn main() {
    let _ = wait.with(1);
}
