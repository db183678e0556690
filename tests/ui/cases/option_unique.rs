use mq_worker::task;

#[task(unique_by = "user")]
async fn for_how_long(user: String) {
    let _ = user;
}

#[task(unique_for = "soon")]
async fn no_time() {}

#[task(unique_for = "1h", unique_by = "")]
async fn nothing(user: String) {
    let _ = user;
}

#[task(unique_for = "1h", unique_by = "user +")]
async fn no_rust(user: String) {
    let _ = user;
}

#[task(unique_for = "1h", broadcast)]
async fn everywhere() {}

#[task(once_for = "2days")]
async fn too_long() {}

#[task(unique = "1h")]
async fn misnamed() {}

fn main() {}
