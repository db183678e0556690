//! The worker of the tests, like a user's own program with a one-line `main`.

mod tasks;

use std::process::ExitCode;

fn main() -> ExitCode {
    mq_worker::main()
}
