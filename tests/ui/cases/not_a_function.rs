use mq_worker::task;

#[task]
struct Mail {
    to: String,
}

#[task]
static LIMIT: u8 = 1;

#[mq_worker::setup]
enum Kind {
    A,
}

fn main() {
    let _ = (Mail { to: String::new() }.to, LIMIT, Kind::A);
}
