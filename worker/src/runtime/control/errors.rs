//! Errors in the format of Celery's workers: the `repr` of a Python exception.

use serde_json::{Value, json};

/// `{"error": "KeyError('x')"}`.
pub(super) fn error(kind: &str, text: &str) -> Value {
    let text: String = text.chars().take(200).collect();
    let quoted = if text.contains('\'') && !text.contains('"') {
        format!("\"{}\"", text.replace('\\', "\\\\"))
    } else {
        format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
    };
    json!({"error": format!("{kind}({quoted})")})
}

/// The answer to a command that lacks an argument.
pub(super) fn missing(method: &str, argument: &str) -> Value {
    error("TypeError", &format!("{method}() missing 1 required positional argument: '{argument}'"))
}
