//! The queues that an application uses: their arguments, and declaring each of them once.

use super::App;
use crate::error::Result;
use crate::routing::names::check_name;
use crate::routing::{Queue, Topology};

impl App {
    /// Ensures that a task queue and its dead-letter queue exist, once per process.
    pub(crate) async fn ensure_queue(&self, name: &str) -> Result<()> {
        if self.is_declared(name) {
            return Ok(());
        }
        // Boxed: every call that is sent pays for the size of its future.
        Box::pin(self.declare_queue(name)).await
    }

    async fn declare_queue(&self, name: &str) -> Result<()> {
        let _one_at_a_time = self.0.declaring.lock().await;
        if self.is_declared(name) {
            return Ok(());
        }
        let topology = self.task_queue(name);
        self.broker().await?.declare(&topology).await?;
        topology.queues.into_iter().for_each(|queue| self.set_declared(queue.name));
        Ok(())
    }

    /// Ensures that the dead-letter queue of a queue exists, once per process.
    pub(crate) async fn ensure_dead_letter_queue(&self, of: &str) -> Result<()> {
        let name = Queue::dead_letter_name(of);
        if self.is_declared(&name) {
            return Ok(());
        }
        let _one_at_a_time = self.0.declaring.lock().await;
        if self.is_declared(&name) {
            return Ok(());
        }
        let queue = self.configured_queue(&name).unwrap_or_else(|| Queue::new(&name));
        self.broker().await?.declare(&Topology::of_queue(queue)).await?;
        self.set_declared(name);
        Ok(())
    }

    pub(super) fn is_declared(&self, name: &str) -> bool {
        self.0.declared.lock().expect("never poisoned").contains(name)
    }

    pub(super) fn set_declared(&self, name: String) {
        self.0.declared.lock().expect("never poisoned").insert(name);
    }

    /// Forgets all declarations, so that queues and exchanges that were deleted meanwhile are declared again on their next use.
    pub(crate) fn forget_declared(&self) {
        self.0.declared.lock().expect("never poisoned").clear();
    }

    /// The configured topology, with its queues as this application creates them.
    pub(crate) fn configured_topology(&self) -> Topology {
        let Topology { exchanges, queues, bindings } = self.0.config.topology.clone();
        let mut topology = Topology { exchanges, ..Topology::default() };
        for queue in &queues {
            topology.merge(self.with_dead_letters(queue.clone()));
        }
        topology.bindings = bindings;
        topology
    }

    /// A task queue as this application creates it: with its dead-letter queue.
    pub(crate) fn task_queue(&self, name: &str) -> Topology {
        let queue = self.configured_queue(name).unwrap_or_else(|| {
            let mut queue = Queue::new(name);
            queue.max_priority = self.highest_priority(name);
            queue
        });
        self.with_dead_letters(queue)
    }

    /// A queue that only remote control has named. Python's workers may get the same command, and exit if the queue exists
    /// with other arguments than theirs: a queue that is not known here is declared as Celery declares it.
    pub(crate) fn queue_from_remote_control(&self, name: &str) -> Topology {
        match self.knows_queue(name) {
            true => self.task_queue(name),
            false => Topology::of_queue(Queue::exact(name)),
        }
    }

    fn knows_queue(&self, name: &str) -> bool {
        let config = &self.0.config;
        self.configured_queue(name).is_some()
            || name == config.default_queue
            || config.worker.queues.iter().any(|queue| queue == name)
            || config.routes.iter().any(|rule| rule.queue.as_deref() == Some(name))
            || self.0.registry.iter().any(|task| self.queue_of(task) == name)
    }

    /// True if other programs declare this queue.
    pub(crate) fn is_external(&self, queue: &str) -> bool {
        self.0.config.topology.queues.iter().any(|known| known.external && known.name == queue)
    }

    fn configured_queue(&self, name: &str) -> Option<Queue> {
        self.0.config.topology.queues.iter().find(|queue| queue.name == name).cloned()
    }

    /// A permanent queue has a dead-letter queue: without one, the broker would drop a message that reaches its delivery
    /// limit. A dead-letter queue needs none itself.
    ///
    /// Neither does a queue that is not managed: its dead-letter queue is created with the first dead letter.
    fn with_dead_letters(&self, mut queue: Queue) -> Topology {
        let stays = queue.durable && !queue.exclusive && !queue.auto_delete;
        let dead = Queue::dead_letter_name(&queue.name);
        if !stays
            || !queue.is_managed()
            || queue.name.ends_with(".dead")
            || check_name("queue", &dead).is_err()
        {
            return Topology::of_queue(queue);
        }
        if queue.dead_letter_exchange.is_none() {
            queue.dead_letter_exchange = Some(String::new());
            queue.dead_letter_routing_key = Some(dead.clone());
        }
        let dead = self.configured_queue(&dead).unwrap_or_else(|| Queue::new(dead));
        Topology { queues: vec![dead, queue], ..Topology::default() }
    }

    /// A queue has priorities if a task or a rule that routes to it has one.
    fn highest_priority(&self, queue: &str) -> Option<u8> {
        let tasks = self.0.registry.iter().filter_map(|task| {
            let route = self.0.router.route(task.name, task.options.queue, Default::default());
            (route.queue.as_deref() == Some(queue)).then(|| task.options.priority.max(route.priority))?
        });
        // At least 9 for all, so that changing the priority of one task does not change the arguments of the queue.
        tasks.max().map(|highest| highest.max(9))
    }
}
