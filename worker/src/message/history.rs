//! The failed attempts of a call, which travel with its message.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Headers;
use super::headers::names;

/// How many attempts are kept: the first, which is often the most telling, and the last ones.
const KEPT: usize = 10;
/// How many characters of an error are kept. Ten of them fit well into RabbitMQ's frame of 128 KiB.
const ERROR: usize = 500;

/// One attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which attempt it was; the first is 1.
    pub attempt: u32,
    /// When it ended (ISO 8601).
    pub at: String,
    /// The error, or what else went wrong, in at most 500 characters.
    pub error: String,
    /// The worker.
    pub worker: String,
}

/// Reads the failed attempts from a message, the oldest first. Entries that are not in our form are left out.
pub fn read(headers: &Headers) -> Vec<Attempt> {
    let Some(Value::Array(attempts)) = headers.get(names::HISTORY) else { return Vec::new() };
    attempts.iter().filter_map(|attempt| Attempt::deserialize(attempt).ok()).collect()
}

/// Adds an attempt. If there are more than ten, the first and the last nine are kept.
pub fn append(headers: &mut Headers, mut attempt: Attempt) {
    attempt.error = shortened(&attempt.error, ERROR);
    let mut attempts = read(headers);
    attempts.push(attempt);
    if attempts.len() > KEPT {
        attempts.drain(1..=attempts.len() - KEPT);
    }
    // Texts and numbers always have a JSON form.
    let attempts = attempts.iter().filter_map(|attempt| serde_json::to_value(attempt).ok()).collect();
    headers.set(names::HISTORY, Value::Array(attempts));
}

/// Returns at most `limit` characters of a text.
pub fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u32) -> Attempt {
        Attempt {
            attempt: number,
            at: "2026-11-22T06:49:58.528108+00:00".into(),
            error: "é".repeat(10_000),
            worker: "mail@host".into(),
        }
    }

    #[test]
    fn it_stays_small_and_keeps_the_first_and_the_last() {
        let mut headers = Headers::default();
        for number in 1..=1000 {
            append(&mut headers, attempt(number));
        }
        let numbers: Vec<u32> = read(&headers).iter().map(|attempt| attempt.attempt).collect();
        assert_eq!(numbers, [1, 992, 993, 994, 995, 996, 997, 998, 999, 1000]);
        assert!(headers.get(names::HISTORY).expect("a history").to_string().len() < 16 << 10);
    }

    #[test]
    fn what_is_no_history_is_left_out() {
        let mut headers = Headers::default();
        headers.set(names::HISTORY, "once upon a time");
        assert_eq!(read(&headers), []);
        append(&mut headers, attempt(1));
        assert_eq!(read(&headers).len(), 1);
    }
}
