//! How long a call has waited in its queue.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::message::Headers;

/// How long a call has waited since it was due. Ids of this crate contain the time when they were made, those of Celery do
/// not.
pub(crate) fn waited(id: &str, headers: &Headers, now: DateTime<Utc>) -> Option<Duration> {
    let due = headers.eta().ok().flatten();
    let made = || {
        let (seconds, nanos) = Uuid::try_parse(id).ok()?.get_timestamp()?.to_unix();
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
    };
    // A retry is due long after its id was made.
    let since = due.or_else(|| if headers.retries() == 0 { made() } else { None })?;
    (now - since).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::headers::format_time;

    #[test]
    fn the_wait_counts_from_the_time_at_which_a_call_was_due() {
        let now = Utc::now();
        let id = Uuid::now_v7().to_string();
        let later = now + chrono::Duration::seconds(9);
        let new = Headers::for_task("t", &id);
        let wait = waited(&id, &new, later).expect("known");
        assert!(wait > Duration::from_secs(8) && wait < Duration::from_secs(10), "{wait:?}");
        let mut due = new.clone();
        due.set("eta", format_time(later - chrono::Duration::seconds(2)));
        assert_eq!(waited(&id, &due, later).map(|wait| wait.as_secs()), Some(2));
        assert_eq!(waited(&id, &due, now), None);
        assert_eq!(waited(&Uuid::new_v4().to_string(), &new, later), None);
        assert_eq!(waited("order-7", &new, later), None);
    }
}
