//! From a delivery to a call that may run: it is decoded, its task looked up, and its crashes judged.

pub(crate) mod gate;
pub(crate) mod limits;
pub(crate) mod pauses;
pub(crate) mod quarantine;
pub(crate) mod refusal;
pub(crate) mod request;
pub(crate) mod reserved;
pub(crate) mod revocations;
pub(crate) mod stamps;
pub(crate) mod step;
pub(crate) mod waiting;
pub(crate) mod workflow;
