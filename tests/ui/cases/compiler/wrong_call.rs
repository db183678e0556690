use mq_worker::task;

#[task]
async fn send(user: u64, text: String) {
    let _ = (user, text);
}

fn main() {
    let _ = send.delay("Ada", "text");
    let _ = send.with(1);
    let _ = send.delay_many([1, 2]);
}
