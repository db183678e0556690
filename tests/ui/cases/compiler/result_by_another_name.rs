use mq_worker::task;

type Outcome = Result<u64, String>;

#[task]
async fn charge(amount: u64) -> Outcome {
    Ok(amount)
}

fn main() {
    let _ = charge.with(1);
}
