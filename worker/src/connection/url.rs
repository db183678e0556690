//! The address of a broker or result backend, which never shows its password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// A URL such as `amqp://user:password@host/vhost`, `sqlite:PATH` or `memory://`.
///
/// `Display` and `Debug` hide the password, so that it cannot reach a log or an error by accident;
/// [`expose`](Self::expose) is the one way to it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BrokerUrl(String);

impl BrokerUrl {
    /// The scheme: what stands before the first colon, in lower case.
    pub fn scheme(&self) -> String {
        self.0.split(':').next().unwrap_or_default().to_ascii_lowercase()
    }

    /// What follows `scheme:` and an optional `//`.
    pub fn path(&self) -> &str {
        let rest = self.0.split_once(':').map_or("", |(_, rest)| rest);
        rest.strip_prefix("//").unwrap_or(rest)
    }

    /// The address of a file with an absolute path, a relative one taken from `directory`. Other addresses stay as they
    /// are, and so does everything where the directory's name is not UTF-8, which an address has to be.
    pub(crate) fn relative_to(&self, directory: &Path) -> Self {
        let path = Path::new(self.path());
        let names_no_file = matches!(self.path(), "" | ":memory:");
        if self.scheme() != "sqlite" || names_no_file || path.is_absolute() {
            return self.clone();
        }
        let absolute: PathBuf = directory.join(path).components().collect();
        match absolute.to_str() {
            Some(path) => Self(format!("sqlite:{path}")),
            None => self.clone(),
        }
    }

    /// The whole address with its password. Not for logs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for BrokerUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let url = Self(text.to_owned());
        match text.split_once(':') {
            Some((scheme, _))
                if !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') =>
            {
                Ok(url)
            }
            _ => Err(Error::config(format!(
                "`{url}` is not a URL: expected amqp://…, amqps://…, sqlite:PATH, rpc://, memory:// or none:"
            ))),
        }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

/// Replaces what stands between the first `:` and the last `@` of the authority by `***`, and the values of
/// query parameters that are secrets.
fn redact(url: &str) -> String {
    // The path of a file may have an `@` in it, and has no password.
    if url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("sqlite:")) {
        return url.to_owned();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        // Without `//` there is no authority; still, an `@` after a colon looks like a mistyped one.
        return match url.rfind('@') {
            Some(at) => format!("***{}", &url[at..]),
            None => url.to_owned(),
        };
    };
    // A password may hold an unescaped `/` or `?` by mistake: the last `@` of all is the safe end.
    let Some(at) = rest.rfind('@') else { return url.to_owned() };
    let user = rest[..at].split(':').next().unwrap_or_default();
    let secret = if rest[..at].contains(':') { ":***" } else { "" };
    format!("{scheme}://{user}{secret}{}", &rest[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        for (url, shown) in [
            ("amqp://guest:secret@localhost:5672/%2f", "amqp://guest:***@localhost:5672/%2f"),
            ("amqp://guest@localhost", "amqp://guest@localhost"),
            ("amqp://u:se:cr@et@host/v", "amqp://u:***@host/v"),
            ("amqp://u:se/cr?et@host/v", "amqp://u:***@host/v"),
            ("amqp:guest:secret@host", "***@host"),
            ("sqlite:jobs.db", "sqlite:jobs.db"),
            ("sqlite:/home/ada@host/jobs.db", "sqlite:/home/ada@host/jobs.db"),
            ("memory://", "memory://"),
        ] {
            let url: BrokerUrl = url.parse().expect("a URL");
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("secret"));
        }
    }

    #[test]
    fn only_the_relative_path_of_a_file_is_made_absolute() {
        for (url, expected) in [
            ("sqlite:jobs.db", "sqlite:/shop/jobs.db"),
            ("SQLITE://./data/jobs.db", "sqlite:/shop/data/jobs.db"),
            ("sqlite:/var/jobs.db", "sqlite:/var/jobs.db"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("sqlite:", "sqlite:"),
            ("amqp://host/v", "amqp://host/v"),
            ("memory://a", "memory://a"),
        ] {
            let url: BrokerUrl = url.parse().expect("a URL");
            assert_eq!(url.relative_to(Path::new("/shop")).expose(), expected);
        }
    }

    #[test]
    fn a_text_that_is_no_url_is_refused_without_showing_a_password() {
        let error = "guest secret@host".parse::<BrokerUrl>().unwrap_err();
        assert!(error.is_config() && !error.to_string().contains("secret"), "{error}");
    }
}
