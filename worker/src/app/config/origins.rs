//! A configuration while it is read, and where each of its values came from.

use std::collections::BTreeMap;
use std::path::Path;

#[cfg(feature = "cli")]
use super::settings::SETTINGS;
use super::settings::Setting;
use super::value::Problem;
use super::{Config, Home};

/// Where values came from, by the variable of their setting: `MQ_GRACE`, `/shop/mq-worker.toml:3`, `--broker`. A setting
/// that is missing here has its default.
pub(crate) type Origins = BTreeMap<&'static str, String>;

/// A configuration while it is read.
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) origins: Origins,
}

impl Draft {
    /// Sets one setting; a path in it is relative to `base`.
    pub(super) fn set(
        &mut self,
        setting: &Setting,
        text: &str,
        base: &Path,
        origin: String,
    ) -> Result<(), Problem> {
        (setting.set)(&mut self.config, text, base)?;
        self.origins.insert(setting.variable, origin);
        Ok(())
    }
}

/// The configuration of a process, with its origins.
#[derive(Debug)]
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "`mq-worker config` shows them"))]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) origins: Origins,
    pub(crate) home: Home,
    /// Variables with our prefix that are not settings.
    pub(super) unknown_variables: Vec<String>,
}

#[cfg(feature = "cli")]
impl Loaded {
    /// A program's own configuration. Settings that differ from what it would have loaded have the origin `code`.
    pub(crate) fn in_code(config: Config) -> Self {
        let nothing = || Self {
            config: Config::default(),
            origins: Origins::new(),
            home: Home::of(&super::working_directory()),
            unknown_variables: Vec::new(),
        };
        let mut loaded = Config::load_at(None).unwrap_or_else(|_| nothing());
        for setting in SETTINGS {
            if (setting.get)(&config) != (setting.get)(&loaded.config) {
                loaded.origins.insert(setting.variable, "code".into());
            }
        }
        loaded.config = config;
        loaded
    }
}
