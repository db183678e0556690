//! Signing up: what the handler of a web service would do.

use std::sync::Mutex;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::mail::send_email;
use crate::sms::send_sms;
use crate::user::User;

/// The number of concurrent sign-ups, like the connections of a web server.
const AT_ONCE: usize = 64;

/// The users of the service. A real one has a database.
#[derive(Debug, Default)]
pub struct Users(Mutex<Vec<User>>);

impl Users {
    /// Adds a user.
    pub fn insert(&self, user: User) {
        self.0.lock().expect("never poisoned").push(user);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().expect("never poisoned").len()
    }

    /// True if no user has signed up.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Signs one user up. Returns when both calls are stored in their queues; running them is left to a worker.
///
/// # Errors
/// Fails if the broker does not accept a message.
pub async fn sign_up(users: &Users, user: User) -> mq_worker::Result<()> {
    users.insert(user.clone());
    send_email.delay(user.clone()).await?;
    send_sms.delay(user).await?;
    Ok(())
}

/// Signs up users 1 to `count`.
///
/// # Errors
/// Stops at the first sign-up that fails.
pub async fn sign_up_many(users: &Users, count: u64) -> mq_worker::Result<()> {
    stream::iter(1..=count)
        .map(|id| sign_up(users, User::sample(id)))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await
}
