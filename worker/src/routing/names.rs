//! Which names of queues and exchanges, and which routing keys, are valid.

use crate::error::{Error, Result};

/// The maximum length of names and routing keys in bytes: AMQP encodes them as short strings.
pub const MAX_NAME: usize = 255;

/// The name prefix of the queues that receive results as messages, one for each process. Their consumers can read several
/// results from one message.
pub const RESULT_QUEUES: &str = "mq.results.";

/// Checks the name of an exchange or queue.
///
/// # Errors
/// A name that is empty, longer than 255 bytes, has control characters, or begins with `amq.`.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 255 bytes"
    } else if name.chars().any(char::is_control) {
        "it has control characters"
    } else if what == "queue" && name.starts_with("amq.") {
        "names that begin with `amq.` are the broker's own"
    } else {
        return Ok(());
    };
    Err(Error::config(format!("{what} name `{}` is not valid: {problem}", shortened(name))))
}

/// Checks a routing key or pattern.
///
/// # Errors
/// A key longer than 255 bytes.
pub fn check_key(key: &str) -> Result<()> {
    if key.len() > MAX_NAME {
        return Err(Error::config(format!(
            "routing key `{}` is {} bytes long; AMQP allows 255",
            shortened(key),
            key.len()
        )));
    }
    Ok(())
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= 60 {
        name.escape_debug().to_string()
    } else {
        format!("{}…", name.chars().take(60).collect::<String>().escape_debug())
    }
}
