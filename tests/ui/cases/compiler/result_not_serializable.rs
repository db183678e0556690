use mq_worker::task;

struct Receipt;

#[task]
async fn charge() -> Result<Receipt, String> {
    Ok(Receipt)
}

fn main() {
    let _ = charge.with();
}
