//! Common mistakes with `#[task]` and `#[setup]`, and the resulting compiler errors.
//!
//! Each file in `cases/` has its expected messages beside it; those in `cases/compiler/` come from the compiler itself. After
//! an intended change run `TRYBUILD=overwrite cargo test -p mq-worker-ui-tests`, and read the difference.

use std::path::Path;
use std::process::Command;

/// The compiler version whose messages `cases/compiler/` expects. Other versions word them differently.
const COMPILER: &str = "rustc 1.95.";

/// The variable in which cargo looks for flags before those set by trybuild.
const FLAGS: &str = "CARGO_ENCODED_RUSTFLAGS";

/// The flags that trybuild sets for the cases. For their dependencies it omits the last one, which would make cargo build all
/// of them a second time.
const OF_CASES: [&str; 6] = ["--cfg", "trybuild", "--verbose", "-A", "dead_code", "--diagnostic-width=140"];

#[test]
fn each_mistake_gets_its_message() {
    let flags = OF_CASES.join("\u{1f}");
    if std::env::var(FLAGS).is_ok_and(|set| set == flags) {
        return check();
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "each_mistake_gets_its_message", "--nocapture"])
        .env(FLAGS, flags)
        // Reuse the other builds' artifacts: the macros and all their dependencies.
        .env("CARGO_BUILD_BUILD_DIR", target)
        .output()
        .expect("it starts");
    // Indented, so that the inner summary is not taken for that of this test program.
    for line in String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).lines() {
        eprintln!("  {line}");
    }
    assert!(output.status.success(), "see the messages above");
}

fn check() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("cases/*.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc prints its version");
    let version = String::from_utf8_lossy(&output.stdout);
    if version.starts_with(COMPILER) {
        cases.compile_fail("cases/compiler/*.rs");
    } else {
        eprintln!("left out: cases/compiler, which expects the words of {COMPILER}x; this is {version}");
    }
}
