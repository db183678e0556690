//! The worker: takes messages, runs their tasks, and settles them.
