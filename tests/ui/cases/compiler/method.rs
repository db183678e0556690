use mq_worker::task;

struct Mailer;

impl Mailer {
    #[task]
    async fn send(user: u64) {
        let _ = user;
    }
}

fn main() {
    let _ = Mailer;
}
