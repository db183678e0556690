use mq_worker::task;

#[task(memory_limit = "512MB")]
fn not_apart() {}

#[task(isolate = false, memory_limit = "512MB")]
fn not_apart_either() {}

#[task(isolate, memory_limit = 512)]
fn a_number() {}

#[task(isolate, memory_limit = "512")]
fn no_unit() {}

#[task(isolate, memory_limit = "0MB")]
fn no_room() {}

#[task(isolate = "yes", memory_limit)]
fn no_flag() {}

#[task(soft_time_limit = "30s", time_limit = "30s")]
fn soft_is_hard() {}

#[task(fork, max_memory = "1GB")]
fn other_words() {}

fn main() {
    let _ = (not_apart.with(), a_number.with(), no_unit.with(), no_room.with(), no_flag.with());
    let _ = (not_apart_either.with(), soft_is_hard.with(), other_words.with());
}
