//! The arguments of `mq-worker call`.

use std::time::Duration;

use clap::Args;
use serde_json::value::RawValue;

use super::PackageArguments;
use crate::app::config::value;
use crate::error::Undecodable;

#[derive(Args, Debug)]
pub(in crate::cli) struct CallArguments {
    /// The task's name
    pub(in crate::cli) task: String,
    /// The positional arguments: a JSON array
    #[arg(long, value_name = "JSON", value_parser = json_array, default_value = "[]", allow_hyphen_values = true)]
    pub(in crate::cli) args: Positional,
    /// The named arguments: a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, default_value = "{}", allow_hyphen_values = true)]
    pub(in crate::cli) kwargs: Box<RawValue>,
    /// The queue [default: from the routes, the crate in this directory or the workers, else the default queue]
    #[arg(short, long, value_parser = value::queue)]
    pub(in crate::cli) queue: Option<String>,
    /// Delay the call by this long
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::duration)]
    pub(in crate::cli) countdown: Option<Duration>,
    /// Wait for the result, with a progress bar on a terminal, and print it, at most this long [default: 60s]; exit code 75 on
    /// timeout
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(in crate::cli) wait: Option<Option<Duration>>,
    #[command(flatten)]
    pub(in crate::cli) package: PackageArguments,
}

/// A JSON array as it was typed: a type of its own, to tell it from an object.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Positional(pub(in crate::cli) Box<RawValue>);

pub(super) fn json_array(text: &str) -> Result<Positional, String> {
    json::<Vec<serde_json::Value>>(text).map(Positional).map_err(|error| {
        format!("expected a JSON array, such as '[1, \"two\"]' ({})", Undecodable::from(&error))
    })
}

pub(super) fn json_object(text: &str) -> Result<Box<RawValue>, String> {
    json::<serde_json::Map<String, serde_json::Value>>(text).map_err(|error| {
        format!("expected a JSON object, such as '{{\"name\": 1}}' ({})", Undecodable::from(&error))
    })
}

/// The text unchanged, if it parses as `T`: a `Value` in between would round large integers.
fn json<T: serde::de::DeserializeOwned>(text: &str) -> serde_json::Result<Box<RawValue>> {
    serde_json::from_str::<T>(text)?;
    serde_json::from_str(text)
}
