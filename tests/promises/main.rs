//! What a user may rely on beyond "it runs at least once", on every broker.

mod failures;
mod once;
mod register;
mod revoke;
mod settled;
mod trial;
mod unique;
mod unique_edges;
