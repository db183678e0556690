//! Guarantees beyond "it runs at least once", on every broker.

mod dropped;
mod failures;
mod once;
mod panics;
mod quarantine;
mod register;
mod revoke;
mod settled;
mod unique;
mod unique_edges;
mod unstored;
mod values;
