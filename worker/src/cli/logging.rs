//! The log: to stderr, as text or JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::arguments::{CommonArguments, LogFormat};
use super::exit::{Failure, Outcome};
use super::stderr::{self, Stderr};
use crate::tracing;

/// The default filter. `lapin` would log every lost connection and every refused request: the broker logs lost
/// connections itself, and asks for queues that may not exist.
const DEFAULT: &str = "info";
const QUIET: [&str; 2] = ["lapin=off", "rustls=warn"];

/// The format: the flag, else `MQ_LOG_FORMAT`, else text.
pub(super) fn format(arguments: &CommonArguments) -> Outcome<LogFormat> {
    if let Some(format) = arguments.log_format {
        return Ok(format);
    }
    match variable("MQ_LOG_FORMAT") {
        None => Ok(LogFormat::default()),
        Some(text) => LogFormat::from_str(&text, true).map_err(|_| {
            Failure::usage(format!("environment variable MQ_LOG_FORMAT is `{text}`: expected text or json"))
        }),
    }
}

/// Starts logging. A program that has set up logging already keeps its own.
pub(super) fn start(arguments: &CommonArguments) -> Outcome {
    let filter = filter(arguments)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Stderr);
    // Such an error could only go to the stream that just failed.
    let log = log.log_internal_errors(false);
    let started = match format(arguments)? {
        LogFormat::Json => {
            stderr::use_json();
            log.json().flatten_event(true).with_span_list(false).try_init()
        }
        LogFormat::Text => log.with_ansi(colors()).try_init(),
    };
    if started.is_err() {
        tracing::debug!("the program logs already; --log-level and --log-format change nothing");
    }
    Ok(())
}

/// Returns where the log level is set, and the level.
fn level(arguments: &CommonArguments) -> (&'static str, String) {
    if let Some(level) = &arguments.log_level {
        return ("--log-level", level.clone());
    }
    let set = |name: &'static str| variable(name).map(|level| (name, level));
    set("MQ_LOG_LEVEL").or_else(|| set("RUST_LOG")).unwrap_or(("default", DEFAULT.into()))
}

/// The two settings of the log, for `mq-worker config`: name, variable, value, and where it comes from.
pub(super) fn in_force(
    arguments: &CommonArguments,
) -> Outcome<[(&'static str, &'static str, String, String); 2]> {
    let (level_from, level) = level(arguments);
    let format = match format(arguments)? {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let format_from = match (arguments.log_format, variable("MQ_LOG_FORMAT")) {
        (Some(_), _) => "--log-format",
        (None, Some(_)) => "MQ_LOG_FORMAT",
        (None, None) => "default",
    };
    Ok([
        ("log_level", "MQ_LOG_LEVEL", level, level_from.into()),
        ("log_format", "MQ_LOG_FORMAT", format.into(), format_from.into()),
    ])
}

fn filter(arguments: &CommonArguments) -> Outcome<EnvFilter> {
    let (place, text) = level(arguments);
    // `RUST_LOG=my_app` names a module, as in every other program.
    let strict = !place.ends_with("RUST_LOG");
    parse(&text, strict).ok_or_else(|| {
        let place = if place.starts_with("--") { place.to_owned() } else { format!("environment variable {place}") };
        Failure::usage(format!(
            "{place} is `{text}`: expected error, warn, info, debug, trace, or a filter such as info,lapin=debug"
        ))
    })
}

fn parse(text: &str, strict: bool) -> Option<EnvFilter> {
    // A word that is not a level would be taken for a module name and silence everything else.
    let mut words = text.split(',').map(str::trim).filter(|part| !part.contains(['=', '[', ':']));
    let known = ["off", "error", "warn", "info", "debug", "trace"];
    if strict && !words.all(|word| known.contains(&word.to_ascii_lowercase().as_str())) {
        return None;
    }
    let mut filter = EnvFilter::try_new(text).ok()?;
    for directive in QUIET {
        let target = directive.split('=').next().unwrap_or_default();
        if !text.contains(target) {
            filter = filter.add_directive(directive.parse().ok()?);
        }
    }
    Some(filter)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns whether the log goes to a terminal that may show colours.
fn colors() -> bool {
    std::io::stderr().is_terminal() && variable("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_level_is_a_level_and_not_a_module() {
        for text in ["info", "DEBUG", "warn,my_app=trace", "my_app=debug", "off"] {
            assert!(parse(text, true).is_some(), "{text}");
        }
        for text in ["loud", "", "info,=,", "infos"] {
            assert!(parse(text, true).is_none(), "{text}");
        }
        assert!(parse("my_app", false).is_some());
    }

    #[test]
    fn lapin_is_quiet_unless_it_is_named() {
        assert!(parse("info", true).expect("a filter").to_string().contains("lapin=off"));
        assert!(!parse("info,lapin=debug", true).expect("a filter").to_string().contains("lapin=off"));
    }
}
