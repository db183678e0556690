//! Why a call is not running: facts from the broker, the workers, the history and the result backend, and what follows
//! from them.
//!
//! [`facts`] is what is known, [`reasons`] concludes from it, and touches nothing.

mod facts;
mod reasons;
