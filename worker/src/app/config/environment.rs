//! `MQ_…` environment variables.

use super::settings::{SETTINGS, STRUCTURES};
use super::suggest::nearest;
use super::{Config, Sources, file};
use crate::error::{Error, Result};

/// What all our variables begin with.
pub(super) const PREFIX: &str = "MQ_";

/// Variables that are read elsewhere: the place of the file, and what the command logs.
const ELSEWHERE: [&str; 3] = ["MQ_CONFIG", "MQ_LOG_LEVEL", "MQ_LOG_FORMAT"];

/// Not for people: how a worker that `mq-worker` built and the process of an isolated task know what they are.
const MARKS: [&str; 2] = ["MQ_SHIM", "MQ_ISOLATED"];

/// Sets what the environment says.
pub(super) fn read(config: &mut Config, sources: &Sources) -> Result<()> {
    for (name, value) in &sources.variables {
        if is_foreign(name) || ELSEWHERE.contains(&name.as_str()) || MARKS.contains(&name.as_str()) {
            continue;
        }
        let setting = SETTINGS.iter().find(|setting| setting.variable == name);
        let structure = STRUCTURES.iter().find(|(_, variable)| variable == name);
        if setting.is_none() && structure.is_none() {
            return Err(unknown(name));
        }
        let Some(text) = value.to_str() else {
            return Err(Error::config(format!("environment variable {name} is not valid UTF-8")));
        };
        if let Some(setting) = setting {
            (setting.set)(config, text).map_err(|problem| {
                Error::config(format!("environment variable {name} is `{}`: {problem}", setting.shown(text)))
            })?;
        } else if let Some((key, _)) = structure {
            file::set_structure(config, key, text)
                .map_err(|problem| Error::config(format!("environment variable {name}: {problem}")))?;
        }
    }
    Ok(())
}

/// Variables of the tests, and those that Kubernetes sets for a service that happens to be called `mq…`.
fn is_foreign(name: &str) -> bool {
    name.starts_with("MQ_TEST_")
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || ["_TCP", "_UDP"].iter().any(|protocol| name.contains("_PORT_") && name.contains(protocol))
}

fn unknown(name: &str) -> Error {
    let known =
        || SETTINGS.iter().map(|setting| setting.variable).chain(STRUCTURES.map(|s| s.1)).chain(ELSEWHERE);
    Error::config(match nearest(name, known()) {
        Some(near) => format!("environment variable {name} is unknown; did you mean {near}?"),
        None => format!(
            "environment variable {name} is unknown; those that begin with MQ_ are {}",
            known().collect::<Vec<_>>().join(", ")
        ),
    })
}
