//! The worker of the tests: as a user's own program, whose `main` is one line.

mod tasks;

use std::process::ExitCode;

fn main() -> ExitCode {
    mq_worker::main()
}
