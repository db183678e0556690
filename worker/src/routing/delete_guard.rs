//! When a queue or an exchange may be deleted.

use crate::error::{Error, Result};

/// Conditions for a deletion. By default it is unconditional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteGuard {
    /// Delete only a queue without consumers and unsettled messages, or an exchange without bindings.
    pub if_unused: bool,
    /// Delete only a queue without messages, whether waiting, delayed or unsettled.
    pub if_empty: bool,
}

impl DeleteGuard {
    /// Checks whether a queue with these counts may be deleted, with the same error messages on every broker.
    pub(crate) fn check_queue(self, name: &str, consumers: u64, running: u64, waiting: u64) -> Result<()> {
        if self.if_unused && consumers + running > 0 {
            // For a broker that does not report running messages, the count is 0.
            let running =
                if running > 0 { format!(", messages that are running: {running}") } else { String::new() };
            return Err(Error::topology(format!(
                "cannot delete queue `{name}`: it is in use (consumers: {consumers}{running})"
            )));
        }
        if self.if_empty && waiting + running > 0 {
            return Err(Error::topology(format!(
                "cannot delete queue `{name}`: it is not empty (messages: {})",
                waiting + running
            )));
        }
        Ok(())
    }

    /// Checks whether an exchange with this many bindings may be deleted.
    pub(crate) fn check_exchange(self, name: &str, bindings: u64) -> Result<()> {
        if self.if_unused && bindings > 0 {
            return Err(Error::topology(format!(
                "cannot delete exchange `{name}`: it is in use (bindings: {bindings})"
            )));
        }
        Ok(())
    }
}
