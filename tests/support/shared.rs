//! The RabbitMQ node that all test programs of one run share, and what happens when there is none.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Mutex, OnceLock};

use crate::node::{Ctl, Node};

/// Set to 1 by `tests/run`: tests may start RabbitMQ.
pub const ENABLED: &str = "MQ_TEST_RABBITMQ";
/// The address of the shared node.
pub const URL: &str = "MQ_TEST_AMQP_URL";
/// The directory of the shared node.
pub const DIRECTORY: &str = "MQ_TEST_RABBITMQ_DIR";

/// A node that other tests use at the same time. Use names of your own, and do it no harm.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Its address, with user, password and virtual host.
    pub url: String,
    /// Its `rabbitmqctl`.
    pub ctl: Ctl,
}

/// The shared node, for a test in `file`; `None` when tests run without RabbitMQ, which is said once per file.
///
/// # Panics
/// When it should be there and is not.
pub fn rabbitmq(file: &str) -> Option<Shared> {
    if !may_start_rabbitmq(file) {
        return None;
    }
    static STARTED_HERE: OnceLock<Node> = OnceLock::new();
    Some(match (std::env::var(URL), std::env::var_os(DIRECTORY)) {
        (Ok(url), Some(directory)) => Shared { url, ctl: Ctl::read(directory.as_ref()) },
        _ => {
            // The node ends with this process: see `Node`.
            let node = STARTED_HERE.get_or_init(Node::start);
            Shared { url: node.url(), ctl: node.ctl.clone() }
        }
    })
}

/// The address of a virtual host of a test's own, where nothing was declared before.
pub fn fresh_rabbitmq(file: &str) -> Option<String> {
    let shared = rabbitmq(file)?;
    let host = crate::unique(file);
    shared.ctl.run(["add_vhost", &host]);
    shared.ctl.run(["set_permissions", "-p", &host, "guest", ".*", ".*", ".*"]);
    let (server, _) = shared.url.rsplit_once('/').expect("a URL with a virtual host");
    Some(format!("{server}/{host}"))
}

/// True when tests may start nodes of their own; else says, once per file, what is left out.
pub fn may_start_rabbitmq(file: &str) -> bool {
    if std::env::var_os(ENABLED).is_some_and(|value| value == "1") {
        return true;
    }
    left_out(file, "tests against RabbitMQ", &format!("{ENABLED}=1 is not set; ./tests/run runs them"));
    false
}

/// Says, once per file, that some tests are left out, and why.
pub(crate) fn left_out(file: &str, what: &str, why: &str) {
    static SAID: Mutex<Option<HashSet<(String, String)>>> = Mutex::new(None);
    let mut said = SAID.lock().expect("never poisoned");
    if said.get_or_insert_default().insert((file.to_owned(), what.to_owned())) {
        // Not `eprintln!`: the test harness would capture it, and a skipped test must be seen.
        let _ = writeln!(std::io::stderr(), "\n{file}: {what} are LEFT OUT, for {why}");
    }
}
