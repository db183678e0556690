//! The users who sign up.

use serde::{Deserialize, Serialize};

use crate::sinks::{BUSY_PREFIX, REFUSED_DOMAIN};

/// A user, as passed to the tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The number in the user list.
    pub id: u64,
    /// First and last name.
    pub name: String,
    /// Where the welcome e-mail goes.
    pub email: String,
    /// Where the text message goes, as `+15550000001`.
    pub phone: String,
}

impl User {
    /// Returns the user with this id: always the same one, so that deliveries can be checked.
    ///
    /// Every 50th has an address that the demonstration's mail server refuses permanently, every 25th a number for
    /// which the gateway is busy twice.
    pub fn sample(id: u64) -> Self {
        const FIRST: [&str; 9] =
            ["Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "Jean", "Ken", "Radia"];
        const LAST: [&str; 8] = ["Allen", "Brown", "Clark", "Davis", "Evans", "Foster", "Garcia", "Hill"];
        let name = |names: &[&str], index: u64| names[(index % names.len() as u64) as usize].to_owned();
        let domain = if id % 50 == 10 { REFUSED_DOMAIN } else { "example.com" };
        let phone = if id % 25 == 5 { format!("{BUSY_PREFIX}{id:06}") } else { format!("+1555{id:07}") };
        Self {
            id,
            name: format!("{} {}", name(&FIRST, id), name(&LAST, id)),
            email: format!("user{id:04}@{domain}"),
            phone,
        }
    }

    /// True when the mail server of the demonstration refuses the address.
    pub fn is_refused(&self) -> bool {
        self.email.ends_with(&format!("@{REFUSED_DOMAIN}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn samples_are_distinct_and_always_the_same() {
        let users: Vec<User> = (1..=1000).map(User::sample).collect();
        assert_eq!(users[0], User::sample(1));
        assert_eq!(users.iter().map(|user| &user.email).collect::<HashSet<_>>().len(), 1000);
        assert_eq!(users.iter().map(|user| &user.phone).collect::<HashSet<_>>().len(), 1000);
        assert_eq!(users.iter().filter(|user| user.is_refused()).count(), 20);
        assert_eq!(users.iter().filter(|user| user.phone.starts_with(BUSY_PREFIX)).count(), 40);
        assert!(users.iter().all(|user| user.phone.len() == "+15550000001".len()));
    }
}
