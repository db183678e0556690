use mq_worker::task;

#[task]
async fn destructured((a, b): (u8, u8)) -> u8 {
    a + b
}

#[task]
async fn unnamed(_: u8) {}

#[task]
async fn by_reference(ref a: u8) -> u8 {
    *a
}

#[task]
async fn bound(a @ 0..: u8) -> u8 {
    a
}

async fn callers() -> u8 {
    let _ = (destructured.with((1, 2)), unnamed.with(1), by_reference.with(1), bound.with(1));
    destructured((1, 2)).await
}

fn main() {
    let _ = callers();
}
