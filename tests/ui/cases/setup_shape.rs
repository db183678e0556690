use mq_worker::{SharedState, setup};

#[setup]
async fn nothing_taken() {}

#[setup]
async fn by_value(state: SharedState) {
    let _ = state;
}

#[setup]
async fn shared(state: &SharedState) {
    let _ = state;
}

#[setup]
async fn too_much(state: &mut SharedState, more: u8) {
    let _ = (state, more);
}

#[setup]
async fn returns(state: &mut SharedState) -> u8 {
    let _ = state;
    1
}

#[setup]
fn generic<T>(state: &mut SharedState) {
    let _ = state;
}

#[setup(queue = "email")]
fn with_options(state: &mut SharedState) {
    let _ = state;
}

fn main() {
    let mut state = SharedState::default();
    let _ = (nothing_taken(), shared(&state));
    let _ = by_value(state.clone());
    generic::<u8>(&mut state);
    with_options(&mut state);
    drop(too_much(&mut state, 1));
    drop(returns(&mut state));
}
