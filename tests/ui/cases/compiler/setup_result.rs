use mq_worker::{SharedState, setup};

struct Failure;

#[setup]
async fn value(state: &mut SharedState) -> Result<u8, String> {
    let _ = state;
    Ok(1)
}

#[setup]
async fn error(state: &mut SharedState) -> Result<(), Failure> {
    let _ = state;
    Err(Failure)
}

fn main() {}
