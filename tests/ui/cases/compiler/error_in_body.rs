use mq_worker::task;

#[task]
async fn send(user: u64) -> Result<u64, String> {
    let text: String = user;
    Ok(text.len() as u64)
}

fn main() {
    let _ = send.with(1);
}
