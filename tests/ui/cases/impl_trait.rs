use mq_worker::task;

#[task]
async fn argument(value: impl Into<String>) -> String {
    value.into()
}

#[task]
async fn result(value: u8) -> impl Copy {
    value
}

fn main() {
    let _ = (argument.with("a"), result.with(1), argument.delay_many(["a"]));
}
