//! Exchanges, queues and bindings as data, the matching rule, and the router that chooses an address for a task.

mod delete_guard;
mod exchange;
pub mod matching;
pub mod names;
pub(crate) mod queue;
pub mod router;
pub mod topic;
pub mod topology;
mod written;

pub use delete_guard::DeleteGuard;
pub use exchange::{Exchange, ExchangeKind};
pub use queue::{Overflow, Queue, QueueKind};
pub use router::{Route, RouteRule, Router};
pub use topic::{EmitTo, Topic, TopicAt};
pub use topology::{Binding, Topology};
