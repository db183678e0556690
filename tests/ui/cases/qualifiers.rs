use mq_worker::task;

#[task]
const fn constant(n: u8) -> u8 {
    n
}

#[task]
async unsafe fn not_safe(n: u8) -> u8 {
    n
}

#[task]
extern "C" fn foreign(n: u8) -> u8 {
    n
}

fn main() {
    let _ = (constant.with(1), not_safe.with(1), foreign.with(1));
    let _ = (constant.delay(1), not_safe.delay(1), foreign.delay(1));
    let _ = constant(1) + foreign(1);
}
