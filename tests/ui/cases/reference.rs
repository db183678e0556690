use mq_worker::Context;
use mq_worker::task;
use std::borrow::Cow;

#[task]
async fn text(to: &str) {
    let _ = to;
}

#[task]
async fn list(numbers: &[u64]) {
    let _ = numbers;
}

#[task]
async fn value(number: &mut u64) {
    let _ = number;
}

#[task]
async fn deep(texts: Vec<&str>, cow: Cow<'_, str>) {
    let _ = (texts, cow);
}

#[task]
async fn result(ctx: &Context) -> &str {
    ctx.id()
}

#[task]
async fn deep_result(n: u8) -> Result<&'static str, String> {
    let _ = n;
    Ok("a")
}

async fn callers() {
    let _ = text("a").await;
    let _ = list(&[1]).await;
    let _ = deep(vec!["a"], "b".into()).await;
    let _ = (
        text.with("a"),
        list.with(vec![1]),
        value.with(1),
        deep.with(1, 2),
        result.with(),
        deep_result.with(1),
    );
}

fn main() {
    let _ = callers();
}
