//! The outcome of the demonstration, checked against the expected one.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::user::User;

/// What was observed at the servers, the worker and the broker.
#[derive(Debug, Default)]
pub struct Seen {
    /// How many users signed up: those with ids from 1 to this.
    pub users: u64,
    /// How long the sign-ups took.
    pub signing_up: Duration,
    /// How long the worker took.
    pub working: Duration,
    /// E-mails by recipient, as the mail server counted.
    pub emails: HashMap<String, u32>,
    /// Text messages by number, as the gateway counted.
    pub texts: HashMap<String, u32>,
    /// Failed runs that were tried again, as the worker counted.
    pub retried: u64,
    /// Messages in the dead-letter queue of the e-mails.
    pub dead_emails: u64,
    /// Messages in the dead-letter queue of the text messages.
    pub dead_texts: u64,
    /// Messages that are still in the queues.
    pub left: u64,
    /// True if the broker and its dead letters stay after the demonstration.
    pub broker_stays: bool,
    /// Why the demonstration gave up, if it did.
    pub gave_up: Option<String>,
}

/// The table, and whether it adds up.
#[derive(Debug)]
pub struct Report {
    rows: Vec<(&'static str, String, String)>,
    problems: Vec<String>,
    duplicates: u64,
    dead_letters_stay: bool,
}

impl Report {
    /// Checks what was observed.
    pub fn new(seen: &Seen) -> Self {
        let users: Vec<User> = (1..=seen.users).map(User::sample).collect();
        let refused = users.iter().filter(|user| user.is_refused()).count() as u64;
        let mut problems: Vec<String> = seen.gave_up.iter().cloned().collect();
        let addresses = users.iter().filter(|user| !user.is_refused()).map(|user| user.email.as_str());
        let emails = compare("e-mail", addresses, &seen.emails, &mut problems);
        let texts = compare("text", users.iter().map(|user| user.phone.as_str()), &seen.texts, &mut problems);
        for (queue, dead, expected) in [("email", seen.dead_emails, refused), ("sms", seen.dead_texts, 0)] {
            if dead != expected {
                let (dead, expected) = (grouped(dead), grouped(expected));
                problems.push(format!("{dead} messages in `{queue}.dead`; {expected} should be there"));
            }
        }
        if seen.left > 0 {
            problems.push(format!("{} messages are still in the queues", grouped(seen.left)));
        }
        let dead = seen.dead_emails + seen.dead_texts;
        let tasks = emails.delivered + texts.delivered + dead;
        let rate = tasks as f64 / seen.working.as_secs_f64().max(0.001);
        let rows = vec![
            ("sign-ups", grouped(seen.users), format!("in {}", seconds(seen.signing_up))),
            ("e-mails delivered", grouped(emails.delivered), String::new()),
            ("text messages delivered", grouped(texts.delivered), String::new()),
            ("retried", grouped(seen.retried), "the gateway was busy".into()),
            ("dead-lettered", grouped(dead), "the address was refused".into()),
            (
                "tasks per second",
                grouped(rate as u64),
                format!("{} in {}", grouped(tasks), seconds(seen.working)),
            ),
        ];
        Self {
            rows,
            problems,
            duplicates: emails.duplicates + texts.duplicates,
            dead_letters_stay: seen.broker_stays && seen.dead_emails > 0,
        }
    }

    /// True if everything arrived as expected.
    pub fn adds_up(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, number, remark) in &self.rows {
            writeln!(f, "{}", format!("{name:<24}{number:>9}   {remark}").trim_end())?;
        }
        if self.duplicates > 0 {
            writeln!(f, "\n{} messages came twice: a task runs at least once.", grouped(self.duplicates))?;
        }
        if self.dead_letters_stay {
            writeln!(
                f,
                "\nThe refused e-mails stay in `email.dead`: `mq-worker dead list email` shows them."
            )?;
        }
        if !self.problems.is_empty() {
            writeln!(f, "\nThis does not add up:")?;
        }
        for problem in &self.problems {
            writeln!(f, "- {problem}")?;
        }
        Ok(())
    }
}

struct Compared {
    delivered: u64,
    duplicates: u64,
}

/// Checks that each expected recipient got a message, and no one else.
fn compare<'a>(
    what: &str,
    expected: impl Iterator<Item = &'a str>,
    received: &HashMap<String, u32>,
    problems: &mut Vec<String>,
) -> Compared {
    let mut others: HashMap<&str, u32> =
        received.iter().map(|(recipient, count)| (recipient.as_str(), *count)).collect();
    let mut missing = Vec::new();
    let mut compared = Compared { delivered: 0, duplicates: 0 };
    for recipient in expected {
        match others.remove(recipient) {
            Some(count) => {
                compared.delivered += 1;
                compared.duplicates += u64::from(count.saturating_sub(1));
            }
            None => missing.push(recipient),
        }
    }
    if !missing.is_empty() {
        problems.push(format!("no {what} for {}", some_of(&missing)));
    }
    let mut others: Vec<&str> = others.into_keys().collect();
    others.sort_unstable();
    if !others.is_empty() {
        problems.push(format!("an unexpected {what} for {}", some_of(&others)));
    }
    compared
}

fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {} more", grouped(more as u64)),
    }
}

/// 1234567 → `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(users: u64) -> Seen {
        let all = || (1..=users).map(User::sample);
        Seen {
            users,
            signing_up: Duration::from_millis(210),
            working: Duration::from_secs(2),
            emails: all().filter(|user| !user.is_refused()).map(|user| (user.email, 1)).collect(),
            texts: all().map(|user| (user.phone, 1)).collect(),
            retried: 80,
            dead_emails: all().filter(User::is_refused).count() as u64,
            ..Seen::default()
        }
    }

    #[test]
    fn the_table_is_what_the_readme_shows() {
        let report = Report::new(&good(1000));
        assert!(report.adds_up());
        assert_eq!(
            report.to_string(),
            "sign-ups                    1,000   in 0.21 s\n\
             e-mails delivered             980\n\
             text messages delivered     1,000\n\
             retried                        80   the gateway was busy\n\
             dead-lettered                  20   the address was refused\n\
             tasks per second            1,000   2,000 in 2.00 s\n"
        );
    }

    #[test]
    fn whatever_is_wrong_is_told() {
        type Fault = fn(&mut Seen);
        let faults: [(Fault, &str); 7] = [
            (
                |seen| assert_eq!(seen.emails.remove("user0003@example.com"), Some(1)),
                "- no e-mail for user0003@example.com\n",
            ),
            (
                |seen| seen.texts.clear(),
                "- no text for +15550000001, +15550000002, +15550000003, +15550000004, +15559000005 and 45 more\n",
            ),
            (|seen| seen.emails.extend([("x@y.z".into(), 1)]), "- an unexpected e-mail for x@y.z\n"),
            (|seen| seen.dead_emails = 0, "- 0 messages in `email.dead`; 1 should be there\n"),
            (|seen| seen.dead_texts = 2, "- 2 messages in `sms.dead`; 0 should be there\n"),
            (|seen| seen.left = 3, "- 3 messages are still in the queues\n"),
            (|seen| seen.gave_up = Some("gave up".into()), "- gave up\n"),
        ];
        for (fault, told) in faults {
            let mut seen = good(50);
            fault(&mut seen);
            let report = Report::new(&seen);
            assert!(!report.adds_up());
            assert!(report.to_string().ends_with(told), "{report}");
        }
    }

    #[test]
    fn a_message_that_came_twice_is_told_and_no_fault() {
        let mut seen = good(50);
        seen.texts.insert("+15550000001".into(), 3);
        let report = Report::new(&seen);
        assert!(report.adds_up());
        assert!(report.to_string().contains("2 messages came twice"), "{report}");
        assert!(report.to_string().contains("text messages delivered        50\n"), "{report}");
    }

    #[test]
    fn dead_letters_that_stay_behind_are_told() {
        let seen = Seen { broker_stays: true, ..good(50) };
        assert!(Report::new(&seen).to_string().contains("`mq-worker dead list email`"));
        let seen = Seen { broker_stays: true, ..good(5) };
        assert!(!Report::new(&seen).to_string().contains("dead list"), "nobody was refused");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
