//! Two tasks with one name: a message could mean either.

use mq_worker::task::Registry;
use mq_worker::{App, Config, task};

mod signup {
    #[super::task]
    async fn send() {}
}

mod reminder {
    #[super::task]
    async fn send() {}
}

#[test]
fn two_tasks_of_one_name_stop_worker_and_producer() {
    let lines: Vec<usize> = include_str!("duplicate_names.rs")
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains("#[super::task]"))
        .map(|(index, _)| index + 1)
        .take(2)
        .collect();
    let expected = format!(
        "two tasks are named `send`: one at worker/tests/duplicate_names.rs:{}, one at \
         worker/tests/duplicate_names.rs:{}; give one of them another name with #[task(name = \"..\")]",
        lines[0], lines[1]
    );
    let error = Registry::collect().expect_err("two tasks of one name");
    assert!(error.is_config());
    assert_eq!(error.to_string(), expected);

    let error = App::new(Config::default()).expect_err("two tasks of one name");
    assert_eq!(error.to_string(), expected);
}
