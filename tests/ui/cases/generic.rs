use mq_worker::task;
use serde::Serialize;

#[task]
async fn generic<T: Serialize>(value: T) -> u64 {
    let _ = value;
    1
}

#[task]
async fn lifetime<'a>(text: &'a str) -> u64 {
    text.len() as u64
}

#[task]
async fn conditions(text: String) -> u64
where
    String: Clone,
{
    text.len() as u64
}

fn main() {
    let _ = (generic.with(1), lifetime.with("a"), conditions.with("b"));
    let _ = (generic.delay(1), lifetime.delay("a"), conditions.delay("b"));
    let _ = conditions("b".to_owned());
}
