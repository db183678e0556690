use mq_worker::task;

struct Mailer;

#[task]
async fn send(self: &Mailer, user: u64) {
    let _ = user;
}

fn main() {
    let _ = (Mailer, send.with(1));
}
