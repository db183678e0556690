//! Login sessions. They are kept in memory, so a restart of the page ends them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::password::random_key;
use crate::app::config::dashboard::DashboardRole;

/// A session ends after this time without a request.
const IDLE: Duration = Duration::from_secs(12 * 60 * 60);
/// A session ends after this time in any case.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The most sessions at once; a further one replaces the session that has been idle longest.
const MOST: usize = 10_000;

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) user: String,
    pub(crate) role: DashboardRole,
    /// The token that a form must include, so that another site cannot send it.
    pub(crate) csrf: String,
    begun: Instant,
    last: Instant,
    notice: Option<Notice>,
}

/// The outcome of the last action, shown once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Done(String),
    /// Still running.
    StillRunning(String),
    Failed(String),
}

/// All sessions, by the key that the cookie holds.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Session>>);

impl Sessions {
    /// Starts a session and returns its key.
    pub(crate) fn begin(&self, user: &str, role: DashboardRole) -> String {
        let (key, now) = (random_key(), Instant::now());
        let mut sessions = self.0.lock().expect("never poisoned");
        sessions.retain(|_, session| session.is_alive(now));
        if sessions.len() >= MOST {
            let idle = sessions.iter().min_by_key(|(_, session)| session.last).map(|(key, _)| key.clone());
            idle.map(|key| sessions.remove(&key));
        }
        let user = user.to_owned();
        let session = Session { user, role, csrf: random_key(), begun: now, last: now, notice: None };
        sessions.insert(key.clone(), session);
        key
    }

    /// Returns the session of a key and marks it as used.
    pub(crate) fn find(&self, key: &str) -> Option<Session> {
        let now = Instant::now();
        let mut sessions = self.0.lock().expect("never poisoned");
        let session = sessions.get_mut(key).filter(|session| session.is_alive(now))?;
        session.last = now;
        Some(session.clone())
    }

    /// Ends a session.
    pub(crate) fn end(&self, key: &str) {
        self.0.lock().expect("never poisoned").remove(key);
    }

    /// Leaves a notice for the next page of a session.
    pub(crate) fn leave(&self, key: &str, notice: Notice) {
        if let Some(session) = self.0.lock().expect("never poisoned").get_mut(key) {
            session.notice = Some(notice);
        }
    }

    /// Takes the notice that was left.
    pub(crate) fn take_notice(&self, key: &str) -> Option<Notice> {
        self.0.lock().expect("never poisoned").get_mut(key)?.notice.take()
    }
}

impl Session {
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < IDLE && now.saturating_duration_since(self.begun) < LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_until_it_ends() {
        let sessions = Sessions::default();
        let key = sessions.begin("ada", DashboardRole::View);
        assert_eq!(sessions.find(&key).expect("a session").user, "ada");
        sessions.leave(&key, Notice::Done("purged".into()));
        assert_eq!(sessions.take_notice(&key), Some(Notice::Done("purged".into())));
        assert_eq!(sessions.take_notice(&key), None);
        sessions.end(&key);
        assert!(sessions.find(&key).is_none() && sessions.find("").is_none());
    }

    #[test]
    fn an_idle_session_ends() {
        let now = Instant::now();
        let session = Session {
            user: "ada".into(),
            role: DashboardRole::Act,
            csrf: String::new(),
            begun: now,
            last: now,
            notice: None,
        };
        assert!(session.is_alive(now + IDLE - Duration::from_secs(1)) && !session.is_alive(now + IDLE));
        let busy = Session { last: now + LONGEST, ..session };
        assert!(!busy.is_alive(now + LONGEST));
    }
}
