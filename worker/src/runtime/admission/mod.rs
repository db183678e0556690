//! Turns a delivery into a call that may run: decodes it, looks up its task, and decides what its crash count means.

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
