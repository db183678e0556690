//! Authentication and roles.

pub(crate) mod access;
pub(crate) mod password;
pub(super) mod session;
pub(super) mod throttle;
