use mq_worker::Context;
use mq_worker::task;

#[task]
async fn not_first(user: u64, ctx: &Context) {
    let _ = (user, ctx);
}

#[task]
async fn exclusive(ctx: &mut Context, user: u64) {
    let _ = (user, ctx);
}

#[task]
async fn for_ever(ctx: &'static Context, user: u64) {
    let _ = (user, ctx);
}

fn main() {
    let _ = (not_first.with(1), exclusive.with(1), for_ever.with(1));
}
