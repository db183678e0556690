//! The addresses of the pages.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The characters to encode in a path segment or a query value: all but letters, digits and `-._~`.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes a text as a path segment or a query value.
pub(crate) fn encoded(text: &str) -> String {
    // A browser would resolve these as steps in a path.
    match text {
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        text => utf8_percent_encode(text, PLAIN).to_string(),
    }
}

/// The page of a queue.
pub(crate) fn queue(name: &str) -> String {
    format!("/queues/{}", encoded(name))
}

/// The page of a worker.
pub(crate) fn worker(name: &str) -> String {
    format!("/workers/{}", encoded(name))
}

/// The page of a call.
pub(crate) fn task(id: &str) -> String {
    format!("/tasks/{}", encoded(id))
}

/// The page of a schedule.
pub(crate) fn schedule(name: &str) -> String {
    format!("/schedules/{}", encoded(name))
}

/// Returns the path if it stays on this site, else `/`: a redirect must not lead to another site.
pub(crate) fn own(path: &str) -> &str {
    let is_own = path.starts_with('/')
        && !path.starts_with("//")
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_own { path } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_an_address() {
        assert_eq!(queue("a/b c?é"), "/queues/a%2Fb%20c%3F%C3%A9");
        assert_eq!(worker("mail@host-1"), "/workers/mail%40host-1");
        assert_eq!(queue(".."), "/queues/%2E%2E");
    }

    #[test]
    fn redirects_stay_on_this_site() {
        for (path, expected) in [
            ("/queues?x=1", "/queues?x=1"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\r\nSet-Cookie: b", "/"),
            ("", "/"),
        ] {
            assert_eq!(own(path), expected);
        }
    }
}
