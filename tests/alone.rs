//! Tests that load the machine or measure their own process. Nothing else runs at the same time.

mod faults;
mod work_queue;
