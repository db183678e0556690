//! From a delivery to a call that may run: it is decoded, its task looked up, and its crashes judged.

pub(crate) mod gate;
pub(crate) mod quarantine;
pub(crate) mod revocations;
pub(crate) mod step;
