//! `MQ_…` environment variables.

use super::origins::Draft;
use super::settings::{SETTINGS, STRUCTURES};
use super::suggest::one_typo_from;
use super::{Sources, file};
use crate::error::{Error, Result};

/// The prefix of all our variables.
pub(super) const PREFIX: &str = "MQ_";

/// Variables that are read elsewhere: the configuration file, and what the command logs.
pub(super) const ELSEWHERE: [&str; 3] = ["MQ_CONFIG", "MQ_LOG_LEVEL", "MQ_LOG_FORMAT"];

/// Internal: they mark a worker that `mq-worker` built, and the process of an isolated task.
pub(super) const INTERNAL: [&str; 2] = ["MQ_SHIM", "MQ_ISOLATED"];

/// Applies the environment. Returns the variables that are not settings: other software may use the prefix too, and its
/// variables must not stop our programs. A variable one typo away from a setting is an error.
pub(super) fn read(draft: &mut Draft, sources: &Sources) -> Result<Vec<String>> {
    let mut unknown_variables = Vec::new();
    for (name, value) in &sources.variables {
        let name = name.as_str();
        if ELSEWHERE.contains(&name) || INTERNAL.contains(&name) || is_of_kubernetes_or_tests(name) {
            continue;
        }
        let setting = SETTINGS.iter().find(|setting| setting.variable == name);
        let structure = STRUCTURES.iter().find(|(_, variable)| *variable == name);
        if setting.is_none() && structure.is_none() {
            match one_typo_from(name, known()) {
                Some(near) => {
                    return Err(Error::config(format!(
                        "environment variable {name} is unknown; did you mean {near}?"
                    )));
                }
                None => unknown_variables.push(name.to_owned()),
            }
            continue;
        }
        let Some(text) = value.to_str() else {
            return Err(Error::config(format!("environment variable {name} is not valid UTF-8")));
        };
        if let Some(setting) = setting {
            draft.set(setting, text, &sources.directory, name.to_owned()).map_err(|problem| {
                Error::config(format!("environment variable {name} is `{}`: {problem}", setting.shown(text)))
            })?;
        } else if let Some((key, variable)) = structure {
            file::set_structure(&mut draft.config, key, text)
                .map_err(|problem| Error::config(format!("environment variable {name}: {problem}")))?;
            draft.origins.insert(variable, name.to_owned());
        }
    }
    Ok(unknown_variables)
}

fn known() -> impl Iterator<Item = &'static str> {
    SETTINGS
        .iter()
        .map(|setting| setting.variable)
        .chain(STRUCTURES.map(|(_, variable)| variable))
        .chain(ELSEWHERE)
}

/// True for variables that no user wrote, so that they cause no warning: Kubernetes sets some for a service that happens to
/// be called `mq…`.
fn is_of_kubernetes_or_tests(name: &str) -> bool {
    name.starts_with("MQ_TEST_")
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| name.contains("_PORT_") && name.contains(protocol))
}
