use mq_worker::Context;
use mq_worker::task;

#[task]
async fn by_value(ctx: Context) {
    let _ = ctx;
}

fn main() {}
