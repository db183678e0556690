use mq_worker::task;

#[task]
async fn email(user: u64) {
    let _ = user;
}

fn main() {
    let email = 5;
}
