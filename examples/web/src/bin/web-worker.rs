//! The worker: `mq-worker` with the tasks of this crate.

use web as _;

fn main() -> std::process::ExitCode {
    mq_worker::main()
}
