use mq_worker::task;

#[task(backoff = "1s")]
async fn one_time() {}

#[task(backoff = "10m..1s")]
async fn upside_down() {}

#[task(backoff = "0s..1s")]
async fn no_wait() {}

#[task(time_limit = "30")]
async fn no_unit() {}

#[task(expires = "0s")]
async fn never() {}

fn main() {
    let _ = (one_time.with(), upside_down.with(), no_wait.with(), no_unit.with(), never.with());
}
