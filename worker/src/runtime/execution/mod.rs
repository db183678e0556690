//! Running a call in its slot: on the async runtime, on a blocking thread, or in a process of its own.

mod call;
pub(crate) mod ended;
pub(crate) mod executor;
pub(crate) mod isolate;
pub(crate) mod runners;
pub(crate) mod running;
pub(crate) mod slots;
