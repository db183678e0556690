use mq_worker::{FailedTask, on_failure};

#[on_failure]
async fn nothing_taken() {}

#[on_failure]
async fn by_value(failed: FailedTask) {
    let _ = failed;
}

#[on_failure]
async fn exclusive(failed: &mut FailedTask) {
    let _ = failed;
}

#[on_failure]
async fn returns(failed: &FailedTask) -> u8 {
    let _ = failed;
    1
}

#[on_failure(task = "send_email")]
fn with_options(failed: &FailedTask) {
    let _ = failed;
}

fn main() {}
