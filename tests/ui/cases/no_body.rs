use mq_worker::task;

#[task]
async fn send(user: u64);

fn main() {
    let _ = send.with(1);
}
