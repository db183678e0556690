use mq_worker::task;

#[task(cron = "0 0 31 2 *")]
async fn never() {}

#[task(cron = "61 * * * *")]
async fn no_minute() {}

#[task(cron = "* * *")]
async fn short() {}

#[task(cron = "@reboot")]
async fn nickname() {}

#[task(cron = "@daily", tz = "Mars/Olympus")]
async fn on_mars() {}

#[task(every = "1ms")]
async fn often() {}

#[task(every = "5m", cron = "@daily")]
async fn both() {}

#[task(every = "5m", tz = "Europe/Berlin")]
async fn zone() {}

#[task(every = "5m", jitter = "6m")]
async fn late() {}

#[task(every = "5m", overlap = "maybe", catch_up = "some")]
async fn words() {}

#[task(overlap = "skip")]
async fn unscheduled() {}

#[task(every = "5m")]
async fn with_arguments(id: u64) {
    let _ = id;
}

fn main() {}
