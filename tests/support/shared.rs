//! The RabbitMQ node that all test programs of a run share, and what to do without one.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Mutex, OnceLock};

use crate::ctl::Ctl;
use crate::node::Node;

/// Set to 1 by `tests/run`: tests may start RabbitMQ.
pub const ENABLED: &str = "MQ_TEST_RABBITMQ";
/// The address of the shared node.
pub const URL: &str = "MQ_TEST_AMQP_URL";
/// The directory of the shared node.
pub const DIRECTORY: &str = "MQ_TEST_RABBITMQ_DIR";

/// A node that other tests use concurrently. Use unique names and do not disturb it.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Its address, with user, password and virtual host.
    pub url: String,
    /// Its `rabbitmqctl`.
    pub ctl: Ctl,
}

/// Returns the shared node for a test in `file`; `None`, after printing why once per file, if tests run without RabbitMQ.
///
/// # Panics
/// When it should be running but is not.
pub fn rabbitmq(file: &str) -> Option<Shared> {
    if !may_start_rabbitmq(file) {
        return None;
    }
    static STARTED_HERE: OnceLock<Node> = OnceLock::new();
    Some(match (std::env::var(URL), std::env::var_os(DIRECTORY)) {
        (Ok(url), Some(directory)) => Shared { url, ctl: Ctl::read(directory.as_ref()) },
        _ => {
            // The node stops with this process: see `Node`.
            let node = STARTED_HERE.get_or_init(Node::start);
            Shared { url: node.url(), ctl: node.ctl.clone() }
        }
    })
}

/// Returns the address of a new, empty virtual host for one test.
pub fn fresh_rabbitmq(file: &str) -> Option<String> {
    let shared = rabbitmq(file)?;
    let host = crate::unique(file);
    shared.ctl.run(["add_vhost", &host]);
    shared.ctl.run(["set_permissions", "-p", &host, "guest", ".*", ".*", ".*"]);
    let (server, _) = shared.url.rsplit_once('/').expect("a URL with a virtual host");
    Some(format!("{server}/{host}"))
}

/// Returns true if tests may start their own nodes; otherwise prints, once per file, what is skipped.
pub fn may_start_rabbitmq(file: &str) -> bool {
    if std::env::var_os(ENABLED).is_some_and(|value| value == "1") {
        return true;
    }
    left_out(file, "tests against RabbitMQ", &format!("{ENABLED}=1 is not set; ./tests/run runs them"));
    false
}

/// Prints, once per file, that some tests are skipped, and why.
pub(crate) fn left_out(file: &str, what: &str, why: &str) {
    static SAID: Mutex<Option<HashSet<(String, String)>>> = Mutex::new(None);
    let mut said = SAID.lock().expect("never poisoned");
    if said.get_or_insert_default().insert((file.to_owned(), what.to_owned())) {
        // Not `eprintln!`: the test harness would capture it, and a skipped test must be seen.
        let _ = writeln!(std::io::stderr(), "\n{file}: {what} are LEFT OUT, for {why}");
    }
}
