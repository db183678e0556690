use mq_worker::task;

struct Failure;

#[task]
async fn charge(amount: u64) -> Result<u64, Failure> {
    if amount == 0 { Err(Failure) } else { Ok(amount) }
}

fn main() {
    let _ = charge.with(1);
}
