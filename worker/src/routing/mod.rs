//! Exchanges, queues and bindings as data, the matching rule, and the router that chooses an address for a task.

pub mod matching;
pub mod router;
pub mod topic;
pub mod topology;

pub use router::{Route, RouteRule, Router};
pub use topic::{EmitTo, Topic, TopicAt};
pub use topology::{Binding, Exchange, ExchangeKind, Overflow, Queue, QueueKind, Topology};
