use std::sync::Arc;

use mq_worker::task;

struct Pool;

#[task]
async fn save(pool: Arc<Pool>, user: u64) {
    let _ = (pool, user);
}

fn main() {}
