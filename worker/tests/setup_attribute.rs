//! Functions with `#[setup]`: the worker runs them before the first task.

#![forbid(unsafe_code)]
#![deny(warnings)]

use mq_worker::task::registry::run_setup;
use mq_worker::{SharedState, TaskError, setup};

struct Greeting(&'static str);
struct Limit(u32);
struct Last;

mod database {
    use super::*;

    #[setup]
    pub(super) async fn connect(state: &mut SharedState) -> Result<(), std::num::ParseIntError> {
        tokio::task::yield_now().await;
        state.insert(Limit("7".parse()?));
        Ok(())
    }
}

/// Plain, without a result.
#[setup]
fn plain(state: &mut SharedState) {
    state.insert(Greeting("hello"));
}

#[setup]
fn plain_with_result(state: &mut mq_worker::SharedState) -> Result<(), TaskError> {
    // In the order of the names: state from earlier functions is available.
    state.get::<Greeting>().map(|_| ()).ok_or_else(|| TaskError::failed("no greeting"))
}

#[cfg(any())]
#[setup]
fn left_out_above(state: &mut DoesNotExist) {}

#[setup]
#[cfg(any())]
fn left_out_below(state: &mut SharedState) -> DoesNotExist {}

#[setup]
async fn unfinished(state: &mut SharedState) -> Result<(), String> {
    state.insert(Last);
    Err("the disk is full".to_owned())
}

#[tokio::test]
async fn functions_run_by_name_until_one_fails() {
    let mut state = SharedState::default();
    let error = run_setup(&mut state).await.expect_err("the last one fails");
    assert_eq!(error.to_string(), "set-up `setup_attribute::unfinished` failed: String: the disk is full");
    assert_eq!(state.get::<Greeting>().unwrap().0, "hello");
    assert_eq!(state.get::<Limit>().unwrap().0, 7);
    assert!(state.get::<Last>().is_some());
}

#[tokio::test]
async fn a_set_up_function_is_still_a_function() {
    let mut state = SharedState::default();
    plain(&mut state);
    assert_eq!(plain_with_result(&mut state), Ok(()));
    assert_eq!(database::connect(&mut state).await, Ok(()));
}
