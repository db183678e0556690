//! `mq-worker config`: shows the settings in effect, and where each comes from.

use serde::Serialize;

use super::arguments::{CommonArguments, ConfigArguments};
use super::exit::Outcome;
use super::{logging, output, settings};
use crate::app::Config;
use crate::app::config::origins::Loaded;
use crate::app::config::settings::{SETTINGS, STRUCTURES};

pub(super) fn run(arguments: &ConfigArguments, common: &CommonArguments) -> Outcome {
    let Loaded { config, origins, home, .. } = settings::load_at(common, arguments.app.as_deref())?;
    let from = |variable: &str| origins.get(variable).cloned().unwrap_or_else(|| "default".into());
    let mut shown: Vec<Shown> = SETTINGS
        .iter()
        .map(|setting| Shown {
            setting: setting.path(),
            value: (setting.get)(&config),
            from: from(setting.variable),
            variable: setting.variable,
        })
        .collect();
    shown.extend(STRUCTURES.iter().map(|(key, variable)| Shown {
        setting: (*key).to_owned(),
        value: count(&config, key),
        from: from(variable),
        variable,
    }));
    for (setting, variable, value, from) in logging::in_force(common)? {
        shown.push(Shown { setting: setting.into(), value: Some(value), from, variable });
    }
    let file = home.file.as_deref().map(|file| file.display().to_string());
    if arguments.json {
        return output::json(&Report { file, home: home.directory.display().to_string(), settings: shown });
    }
    output::data(match file {
        Some(file) => format!("configuration file: {file}"),
        None => "no mq-worker.toml in this directory or above".to_owned(),
    })?;
    output::data("")?;
    let row = |shown: Shown| vec![shown.setting, shown.value.unwrap_or_else(|| "-".into()), shown.from];
    output::table(&["setting", "value", "from"], shown.into_iter().map(row).collect(), usize::MAX)
}

#[derive(Serialize)]
struct Report {
    /// The configuration file, if there is one.
    file: Option<String>,
    /// Where the default database is.
    home: String,
    settings: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    setting: String,
    /// Without secrets; `null` where nothing is set.
    value: Option<String>,
    /// A flag, a variable, file and line, `code`, or `default`.
    from: String,
    variable: &'static str,
}

/// How many rules or declarations there are.
fn count(config: &Config, structure: &str) -> Option<String> {
    let (count, noun) = match structure {
        "routes" => (config.routes.len(), "rule"),
        "dashboard" => (config.dashboard.users.len(), "user"),
        "schedules" => (config.schedules.len(), "schedule"),
        _ => {
            let topology = &config.topology;
            (topology.exchanges.len() + topology.queues.len() + topology.bindings.len(), "declaration")
        }
    };
    (count > 0).then(|| super::operate::counted(count as u64, noun))
}
