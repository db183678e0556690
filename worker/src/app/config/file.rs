//! `mq-worker.toml`.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::Config;
use super::origins::Draft;
use super::settings::{SECTIONS, STRUCTURES, of_section};
use super::suggest::nearest;
use super::value::{Problem, looks_like_an_address};
use crate::error::{Error, Result, without_values};

/// The name of the file.
pub(super) const NAME: &str = "mq-worker.toml";

/// Applies the file. Paths in it are relative to its directory.
pub(super) fn read(draft: &mut Draft, path: &Path, is_named: bool) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let named = if is_named { " (named by MQ_CONFIG)" } else { "" };
        Error::config(format!("cannot read the configuration file {}{named}", path.display()))
            .with_source(error)
    })?;
    read_text(draft, path, &text)
}

/// Applies the text of a file.
pub(super) fn read_text(draft: &mut Draft, path: &Path, text: &str) -> Result<()> {
    apply(draft, path, text)
        .map_err(|(line, problem)| Error::config(format!("{}:{line}: {problem}", path.display())))
}

/// A line number and the problem there.
type Located = (usize, Problem);

fn apply(draft: &mut Draft, path: &Path, text: &str) -> Result<(), Located> {
    let file = SourceFile { directory: path.parent().unwrap_or(Path::new("")), path };
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    // Only the parser's message: the line it would quote may hold a password.
    let at_line = |error: &toml::de::Error| error.span().map_or(1, |span| line(span.start));
    let table =
        DeTable::parse(text).map_err(|error| (at_line(&error), error.message().to_owned()))?.into_inner();
    for (key, value) in table {
        let (at, name) = (line(key.span().start), key.into_inner());
        if SECTIONS.contains(&name.as_ref()) {
            let kind = value.get_ref().type_str();
            let DeValue::Table(section) = value.into_inner() else {
                return Err((
                    at,
                    format!("`{name}` is a section, written [{name}]; here it is of type {kind}"),
                ));
            };
            for (key, value) in section {
                let at = line(key.span().start);
                set(draft, &file, at, &name, key.get_ref(), value.get_ref())
                    .map_err(|problem| (at, problem))?;
            }
        } else if let Some((_, variable)) = STRUCTURES.iter().find(|(key, _)| *key == name) {
            structure(&mut draft.config, &name, value).map_err(|error| {
                (error.span().map_or(at, |span| line(span.start)), format!("`{name}`: {}", text_of(&error)))
            })?;
            draft.origins.insert(variable, file.at(at));
        } else {
            set(draft, &file, at, "", &name, value.get_ref()).map_err(|problem| (at, problem))?;
        }
    }
    Ok(())
}

/// The file being read.
struct SourceFile<'a> {
    path: &'a Path,
    directory: &'a Path,
}

impl SourceFile<'_> {
    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }
}

/// Sets one setting.
fn set(
    draft: &mut Draft,
    file: &SourceFile<'_>,
    line: usize,
    section: &str,
    key: &str,
    value: &DeValue<'_>,
) -> Result<(), Problem> {
    let Some(setting) = of_section(section).find(|setting| setting.key == key) else {
        return Err(unknown(section, key));
    };
    let path = setting.path();
    let text = scalar(value).ok_or_else(|| format!("`{path}` cannot be of type {}", value.type_str()))?;
    draft
        .set(setting, &text, file.directory, file.at(line))
        .map_err(|problem| format!("`{path}` is `{}`: {problem}", setting.shown(&text)))
}

/// The value as an environment variable would hold it.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.to_string(), |n| n.to_string()),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| scalar(item.get_ref())).collect();
            items?.join(",")
        }
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

fn unknown(section: &str, key: &str) -> Problem {
    let mut choices: Vec<&str> = of_section(section).map(|setting| setting.key).collect();
    let elsewhere = SECTIONS.iter().find(|other| of_section(other).any(|setting| setting.key == key));
    if section.is_empty() {
        choices.extend(SECTIONS);
        choices.extend(STRUCTURES.map(|(key, _)| key));
        if let Some(section) = elsewhere {
            return format!("unknown key `{key}`; it belongs in the section [{section}]");
        }
    } else if of_section("").any(|setting| setting.key == key) {
        return format!(
            "unknown key `{key}` in [{section}]; it belongs at the top of the file, before any section"
        );
    }
    let place = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
    match nearest(key, choices.iter().copied()) {
        Some(near) => format!("unknown key `{key}`{place}; did you mean `{near}`?"),
        None => format!("unknown key `{key}`{place}; the choices are {}", choices.join(", ")),
    }
}

/// Sets `routes`, `topology` or `dashboard`.
fn structure(config: &mut Config, key: &str, value: Spanned<DeValue<'_>>) -> Result<(), toml::de::Error> {
    let value = ValueDeserializer::from(value);
    match key {
        "routes" => config.routes = Deserialize::deserialize(value)?,
        "dashboard" => config.dashboard = Deserialize::deserialize(value)?,
        "schedules" => config.schedules = Deserialize::deserialize(value)?,
        _ => config.topology = Deserialize::deserialize(value)?,
    }
    Ok(())
}

/// The parser's message, without the value that it quotes if that may be an address in the wrong place.
fn text_of(error: &toml::de::Error) -> String {
    let text = error.message();
    if looks_like_an_address(text) || text.contains("amqp") { without_values(text) } else { text.to_owned() }
}

/// Sets `routes`, `topology` or `dashboard` from one line of TOML, as an environment variable holds it.
pub(super) fn set_structure(config: &mut Config, key: &str, text: &str) -> Result<(), Problem> {
    let example = match key {
        "routes" => r#"[{ task = "feed.*", queue = "feeds" }]"#,
        "dashboard" => r#"{ listen = "127.0.0.1:5555" }"#,
        "schedules" => r#"[{ name = "nightly", task = "clean_up", cron = "0 3 * * *" }]"#,
        _ => r#"{ queues = [{ name = "email" }] }"#,
    };
    DeValue::parse(text)
        .and_then(|value| structure(config, key, value))
        .map_err(|error| format!("{}; expected TOML such as `{example}`", text_of(&error)))
}
