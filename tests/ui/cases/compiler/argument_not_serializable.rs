use mq_worker::task;

struct User;

#[task]
async fn send(user: User) {
    let _ = user;
}

fn main() {
    let _ = send.with(User);
}
