//! The `mq-worker` command.
fn main() {}
