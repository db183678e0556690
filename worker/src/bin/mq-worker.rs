//! The `mq-worker` command.
fn main() -> std::process::ExitCode {
    mq_worker::main()
}
