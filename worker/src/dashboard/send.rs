//! Sends a call with arguments entered by a user.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::admin::failure::{Failure, Outcome};
use crate::app::{App, AsyncResult};
use crate::canvas::SendOptions;

/// Sends a call and reports its id. Without a queue, the routes choose one.
pub(crate) async fn send(
    app: &App,
    task: &str,
    args: Option<&str>,
    kwargs: Option<&str>,
    queue: Option<&str>,
) -> Outcome<String> {
    let args = json(args.unwrap_or_default(), "[]", "a JSON array, such as [1, \"two\"]", '[')?;
    let kwargs = json(kwargs.unwrap_or_default(), "{}", "a JSON object, such as {\"name\": 1}", '{')?;
    let queue = queue.map(str::trim).filter(|queue| !queue.is_empty());
    let queue = queue.map(crate::app::config::value::queue).transpose();
    let queue = queue.map_err(|problem| Failure::usage(format!("queue: {problem}")))?;
    // The result is not awaited.
    let options = SendOptions { queue, ..SendOptions::default() };
    let sent: AsyncResult<Value> = app.send_call(task, &*args, &*kwargs, options).await?;
    Ok(format!("{task} sent as {}.", sent.id()))
}

/// Returns the JSON text unchanged: a `Value` would lose digits of large numbers.
fn json(text: &str, empty: &str, expected: &str, start: char) -> Outcome<Box<RawValue>> {
    let text = text.trim();
    let text = if text.is_empty() { empty } else { text };
    let wrong = |why: String| Failure::usage(format!("the arguments are not {expected}{why}"));
    let value: Box<RawValue> = serde_json::from_str(text)
        .map_err(|error| wrong(format!(" ({})", crate::error::Undecodable::from(&error))))?;
    if value.get().starts_with(start) { Ok(value) } else { Err(wrong(String::new())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_must_have_the_right_shape() {
        assert!(json("[1]", "[]", "x", '[').is_ok() && json(" ", "[]", "x", '[').is_ok());
        assert!(json("{}", "[]", "x", '[').is_err() && json("[1", "[]", "x", '[').is_err());
        let large = json("[18446744073709551616]", "[]", "x", '[').expect("JSON");
        assert_eq!(large.get(), "[18446744073709551616]");
    }
}
