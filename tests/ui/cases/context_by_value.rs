use mq_worker::{Context, task};

#[task]
async fn alone(ctx: Context) {
    let _ = ctx;
}

#[task]
fn with_arguments(ctx: mq_worker::Context, user: u64) {
    let _ = (ctx, user);
}

fn main() {
    let _ = (alone.with(), with_arguments.with(1));
}
