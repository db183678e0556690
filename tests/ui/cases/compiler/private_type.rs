mod inner {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct User;

    #[mq_worker::task]
    pub async fn send(user: User) {
        let _ = user;
    }
}

fn main() {
    let _ = inner::send;
}
