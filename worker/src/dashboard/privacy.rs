//! Which arguments and results are hidden.

use crate::app::config::dashboard::DashboardConfig;
use crate::routing::router::glob;

/// Shown in place of hidden arguments.
pub(crate) const HIDDEN: &str = "hidden";

/// Which arguments and results are hidden.
#[derive(Clone, Debug)]
pub(crate) struct Privacy {
    all: bool,
    tasks: Vec<String>,
}

impl Privacy {
    /// As configured.
    pub(crate) fn new(config: &DashboardConfig) -> Self {
        Self { all: config.hide_arguments, tasks: config.redact.clone() }
    }

    /// True if arguments and results of this task are not shown.
    pub(crate) fn hides(&self, task: &str) -> bool {
        self.all || self.tasks.iter().any(|pattern| glob(pattern, task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_hidden_by_task_or_all() {
        let config = DashboardConfig { redact: vec!["billing.*".into()], ..DashboardConfig::default() };
        let privacy = Privacy::new(&config);
        assert!(privacy.hides("billing.charge") && !privacy.hides("email.send"));
        assert!(Privacy::new(&DashboardConfig { hide_arguments: true, ..config }).hides("email.send"));
    }
}
