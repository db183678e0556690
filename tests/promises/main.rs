//! What a user may rely on beyond "it runs at least once", on every broker.

mod failures;
mod unique;
