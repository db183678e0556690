use mq_worker::task;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Result;

#[task]
async fn charge(amount: u64) -> Result {
    let _ = amount;
    Result
}

fn main() {
    let _ = charge.with(1);
}
