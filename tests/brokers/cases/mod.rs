//! The cases by topic.

pub(crate) mod delivering;
pub(crate) mod exchanges;
pub(crate) mod fidelity;
pub(crate) mod life;
pub(crate) mod limits;
pub(crate) mod registers;
pub(crate) mod time;
pub(crate) mod topology;
