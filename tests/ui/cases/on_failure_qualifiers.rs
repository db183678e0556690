use mq_worker::{FailedTask, SharedState, on_failure, setup};

#[on_failure]
unsafe fn not_safe(failed: &FailedTask) {
    let _ = failed;
}

#[on_failure]
fn generic<T>(failed: &FailedTask) {
    let _ = failed;
}

#[on_failure]
extern "C" fn foreign(failed: &FailedTask) {
    let _ = failed;
}

#[setup]
fn also_generic<T>(state: &mut SharedState) {
    let _ = state;
}

fn main() {}
