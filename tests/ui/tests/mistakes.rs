//! The mistakes that people make with `#[task]` and `#[setup]`, and what the compiler tells them.
//!
//! Each file in `cases/` has its expected messages beside it; those in `cases/compiler/` are in the compiler's own words.
//! After a change that is meant: `TRYBUILD=overwrite cargo test -p mq-worker-ui-tests`, and read the difference.

use std::process::Command;

/// The compiler whose words `cases/compiler/` expects. Others say the same, differently.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn each_mistake_gets_its_message() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("cases/*.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc tells its version");
    let version = String::from_utf8_lossy(&output.stdout);
    if version.starts_with(COMPILER) {
        cases.compile_fail("cases/compiler/*.rs");
    } else {
        eprintln!("left out: cases/compiler, which expects the words of {COMPILER}x; this is {version}");
    }
}
