use mq_worker::task;

#[task]
async fn email(email: String) {
    let _ = email;
}

#[task]
async fn twice(a: u8, a: u8) {}

#[task]
async fn conditional(#[cfg(all())] a: u8) {
    let _ = a;
}

fn main() {
    let _ = (twice.with(1, 2), conditional.with(1));
}
