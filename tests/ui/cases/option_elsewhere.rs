use mq_worker::task;

#[task(rate_limit = "10/m", max_retries = 1)]
async fn limited() {}

#[task(run_at = "03:00")]
async fn nightly() {}

#[task(retry_delay = 30)]
async fn patient() {}

#[task(autoretry_for = "IoError", concurrency = 4, countdown = "5s")]
async fn from_elsewhere() {}

#[task(on_failure = "alert", durable = true)]
async fn more() {}

fn main() {
    let _ = (limited.with(), nightly.with(), patient.with(), from_elsewhere.with(), more.with());
}
