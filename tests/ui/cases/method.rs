use mq_worker::task;

struct Mailer;

impl Mailer {
    #[task]
    async fn send(&self, user: u64) {
        let _ = user;
    }

    #[task(queue = "mail")]
    fn send_now(&mut self, user: u64) {
        let _ = user;
    }
}

fn main() {
    let mut mailer = Mailer;
    mailer.send_now(1);
    let _ = mailer.send(1);
}
