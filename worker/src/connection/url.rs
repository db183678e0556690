//! The address of a broker or result backend, which never shows its password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::url_options::{self, UrlOption};
use crate::error::{Error, Result};

/// A URL such as `amqp://user:password@host/vhost`, `sqlite:PATH` or `memory://`.
///
/// `Display` and `Debug` hide the password, so that it cannot reach a log or an error by accident;
/// only [`expose`](Self::expose) returns it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BrokerUrl(String);

impl BrokerUrl {
    /// The scheme: the part before the first colon, in lower case.
    pub fn scheme(&self) -> String {
        self.0.split(':').next().unwrap_or_default().to_ascii_lowercase()
    }

    /// Everything after `scheme:` and an optional `//`.
    pub fn path(&self) -> &str {
        let rest = self.0.split_once(':').map_or("", |(_, rest)| rest);
        rest.strip_prefix("//").unwrap_or(rest)
    }

    /// The host and port of a server, as written in the URL.
    pub(crate) fn authority(&self) -> &str {
        let authority = self.path().split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default()
    }

    /// The user and password as written in the URL, including the `@` after them.
    #[cfg(feature = "redis")]
    pub(crate) fn login(&self) -> Option<&str> {
        let authority = self.path().split(['/', '?', '#']).next().unwrap_or_default();
        authority.rfind('@').map(|end| &authority[..=end])
    }

    /// The path between the host and the options.
    #[cfg(feature = "redis")]
    pub(crate) fn database(&self) -> &str {
        let address = self.path().split(['?', '#']).next().unwrap_or_default();
        address.split_once('/').map_or("", |(_, database)| database)
    }

    /// Resolves the relative path of a `sqlite:` URL against `directory`. Other URLs are returned unchanged, and so is any
    /// URL if the directory's name is not UTF-8, since a URL must be.
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

    /// Rejects parts that would otherwise be ignored, and values that the client libraries do not check: an unknown option
    /// may have been meant to verify a certificate, and `lapin` allocates whatever `frame_max` says.
    ///
    /// # Errors
    /// An unknown option after `?`, an invalid value, a list of addresses, or a misplaced `@`.
    pub(crate) fn check(&self) -> Result<()> {
        let path = self.path();
        let scheme = self.scheme();
        let is_amqp = matches!(scheme.as_str(), "amqp" | "amqps");
        let is_redis = matches!(scheme.as_str(), "redis" | "rediss" | "sentinel" | "sentinels");
        let is_server = is_amqp || is_redis || matches!(scheme.as_str(), "postgres" | "postgresql");
        if is_server && path.contains("://") {
            let form = match is_redis {
                true => {
                    ", or the sentinels of one primary in one address: sentinel://HOST,HOST/DB?master_name=NAME"
                }
                false => "",
            };
            return Err(Error::config(format!("`{self}` is a list of addresses: name one{form}")));
        }
        // An unescaped character in the password: the rest of it would be sent as the name of a virtual host.
        if is_server && path.find(['/', '?', '#']).is_some_and(|end| path[end..].contains('@')) {
            return Err(Error::config(format!(
                "`{self}` has an `@` after the host: special characters of a password or a virtual host are \
                 percent-encoded, `@` as %40, `/` as %2F, `?` as %3F, `#` as %23"
            )));
        }
        let Some((_, options)) = path.split_once('?') else { return Ok(()) };
        let known = url_options::of_scheme(&scheme);
        let mut seen = Vec::new();
        for text in options.split('&').filter(|text| !text.is_empty()) {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let Some(option) = known.iter().find(|option| option.name == name) else {
                return Err(self.unknown_option(text, known));
            };
            if !option.values.accept(value) {
                let values = &option.values;
                return Err(Error::config(format!(
                    "`{self}` has an invalid value after `?`: `{name}` must be {values}"
                )));
            }
            if seen.contains(&name) {
                return Err(Error::config(format!("`{self}` has the option `{name}` twice")));
            }
            seen.push(name);
        }
        Ok(())
    }

    fn unknown_option(&self, option: &str, known: &[UrlOption]) -> Error {
        let named = match option.split_once('=') {
            Some((name, _)) if is_option_name(name) => format!("the option `{name}`"),
            // It may be the rest of a password.
            _ => "an option".into(),
        };
        let remedy = if known.is_empty() {
            format!("and there are none for {}", self.scheme())
        } else {
            let names: Vec<_> = known.iter().map(|option| option.name).collect();
            format!(
                "which is not known: the options are {}; files for TLS belong in the section [tls]",
                names.join(", ")
            )
        };
        Error::config(format!("`{self}` has {named} after `?`, {remedy}"))
    }

    /// The whole URL including its password. Not for logs.
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

/// Schemes that do not name a server and so have no login.
const LOCAL: [&str; 4] = ["sqlite", "memory", "rpc", "none"];

/// Redacts everything in a URL that could be part of a password, however malformed the URL is.
pub(crate) fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return redact_bare(url) };
    if rest.contains("://") {
        // A list of addresses, each of which may have its own password.
        return format!("{scheme}://***");
    }
    let is_local = LOCAL.contains(&scheme.to_ascii_lowercase().as_str());
    // A password may contain an unescaped `/` or `?` by mistake, so the login is taken to end at the very last `@`.
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (redact_login(login, is_local) + "@", place),
        None => (String::new(), rest),
    };
    format!("{scheme}://{login}{}", redact_place(place, is_local))
}

/// Redacts a URL without `//`. It has no authority, but an `@` after a colon looks like a mistyped one.
fn redact_bare(url: &str) -> String {
    // The path of a file may contain an `@`, but no password.
    if let Some((scheme, rest)) = url.split_once(':')
        && scheme.eq_ignore_ascii_case("sqlite")
    {
        return format!("{scheme}:{}", redact_place(rest, true));
    }
    if let Some((_, place)) = url.rsplit_once('@') {
        return format!("***@{}", redact_place(place, false));
    }
    match url.split_once(':') {
        Some((scheme, rest)) if LOCAL.contains(&scheme.to_ascii_lowercase().as_str()) => {
            format!("{scheme}:{}", redact_place(rest, true))
        }
        // `user:password` or `host:port`.
        Some(_) => redact_place(url, false),
        None => url.to_owned(),
    }
}

/// Redacts the password of `user:password`, and the user if it is not a valid name: it may be part of the password.
fn redact_login(login: &str, is_local: bool) -> String {
    let end = login.find(':').or_else(|| login.to_ascii_lowercase().find("%3a"));
    let user = &login[..end.unwrap_or(login.len())];
    let is_name = |c: char| c.is_alphanumeric() || "-._~%+".contains(c);
    let user = if is_local || user.chars().all(is_name) { user } else { "***" };
    if end.is_some() { format!("{user}:***") } else { user.to_owned() }
}

/// Redacts the part after the login: unknown options, and a port that is not a number, since it may be a password.
fn redact_place(place: &str, is_local: bool) -> String {
    let (address, options) = place.split_at(place.find(['?', '#']).unwrap_or(place.len()));
    let (authority, path) = match address.find('/') {
        _ if is_local => ("", address),
        Some(at) => address.split_at(at),
        None => (address, ""),
    };
    let is_port = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let authority = match authority.rsplit_once(':') {
        Some((host, port)) if !is_port(port) && !port.ends_with(']') => {
            format!("{}:***", host.split(':').next().unwrap_or_default())
        }
        _ => authority.to_owned(),
    };
    let options = match options.strip_prefix('?') {
        Some(options) => {
            format!("?{}", options.split('&').map(redact_option).collect::<Vec<_>>().join("&"))
        }
        None if options.is_empty() => String::new(),
        None => "#***".into(),
    };
    authority + path + &options
}

fn redact_option(option: &str) -> String {
    match option.split_once('=') {
        Some((name, value)) if url_options::may_show(name, value) => option.to_owned(),
        Some((name, _)) if is_option_name(name) => format!("{name}=***"),
        _ => "***".into(),
    }
}

fn is_option_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
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
            ("amqp://a@h/v;amqp://user:secret@h2/v", "amqp://***"),
            ("amqp://u:p@h/v,amqp://h2:secret", "amqp://***"),
            ("amqp://u:secret@h1,u2:secret2@h2/v", "amqp://u:***@h2/v"),
            ("amqp://us%40er:secret@h/v", "amqp://us%40er:***@h/v"),
            ("amqp://u%3Asecret@h/v", "amqp://u:***@h/v"),
            ("amqp://u secret@h/v", "amqp://***@h/v"),
            ("amqp://u:secret", "amqp://u:***"),
            ("amqp://u:secret%40host/v", "amqp://u:***/v"),
            ("amqp://u@host:secret/v", "amqp://u@host:***/v"),
            ("amqp://h/v?password=secret&heartbeat=5", "amqp://h/v?password=***&heartbeat=5"),
            ("amqp://h/v?secret", "amqp://h/v?***"),
            ("amqp://h/v#secret", "amqp://h/v#***"),
            ("amqp://u:p@[::1]:5672/v", "amqp://u:***@[::1]:5672/v"),
            ("amqp://u:p@[::1]/v", "amqp://u:***@[::1]/v"),
            ("amqp:secret", "amqp:***"),
            ("guest:secret", "guest:***"),
            ("sqlite:jobs.db", "sqlite:jobs.db"),
            ("sqlite:/home/ada@host/jobs.db", "sqlite:/home/ada@host/jobs.db"),
            ("sqlite:jobs.db?key=secret", "sqlite:jobs.db?key=***"),
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
    fn an_option_takes_only_what_it_can_be() {
        for (url, part) in [
            (
                "amqp://h/v?heartbeat=abc",
                "heartbeat=abc` has an invalid value after `?`: `heartbeat` must be 0 to 65535 seconds",
            ),
            ("amqp://h/v?heartbeat=70000", "0 to 65535 seconds"),
            ("amqp://h/v?heartbeat", "0 to 65535 seconds"),
            ("amqp://h/v?heartbeat=5&frame_max=999999999", "`frame_max` must be 4096 to 16777216 bytes"),
            ("amqp://h/v?frame_max=100", "`frame_max` must be 4096"),
            ("amqp://h/v?connection_timeout=0", "1 to 3600000 milliseconds"),
            ("amqp://h/v?auth_mechanism=nope", "one of plain, amqplain, external"),
            ("amqp://h/v?heartbeat=5&heartbeat=6", "the option `heartbeat` twice"),
            (
                "postgres://h/d?sslmode=verify-full",
                "sslmode=verify-full` has an invalid value after `?`: `sslmode` must be one of",
            ),
            ("postgres://h/d?connect_timeout=-1", "0 to 3600 seconds"),
        ] {
            let error = url.parse::<BrokerUrl>().expect(url).check().expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
        let error = "amqp://h/v?heartbeat=se%25cret".parse::<BrokerUrl>().expect("a URL").check();
        assert!(!error.expect_err("no number").to_string().contains("cret"));
    }

    #[test]
    fn an_option_that_nobody_reads_is_refused() {
        let error = |url: &str| url.parse::<BrokerUrl>().expect(url).check().expect_err(url).to_string();
        for (url, parts) in [
            ("amqps://h/v?verify=verify_peer&cacertfile=/ca.pem", ["`verify`", "heartbeat", "[tls]"]),
            ("amqp://h/v?heartbeat=5&password=secret", ["`password`", "heartbeat", "frame_max"]),
            ("amqp://u:sec?ret=x@h/v", ["after the host", "percent-encoded", "%3F"]),
            ("sqlite:jobs.db?mode=ro", ["`mode`", "after `?`", "none for sqlite"]),
            ("amqp://a@h/v;amqp://u:secret@h2/v", ["a list of addresses", "name one", "amqp://***"]),
        ] {
            let error = error(url);
            assert!(parts.iter().all(|part| error.contains(part)), "{url}: {error}");
            assert!(!error.contains("secret") && !error.contains("ret="), "{error}");
        }
        let good = [
            "amqp://h/v?heartbeat=5&connection_timeout=10",
            "amqp://h/v?frame_max=131072&channel_max=0&auth_mechanism=PLAIN",
            "postgres://h/d?sslmode=require&connect_timeout=5&application_name=shop",
            "sqlite:jobs.db",
            "memory://",
            "amqp://h",
        ];
        for url in good {
            assert!(url.parse::<BrokerUrl>().expect(url).check().is_ok(), "{url}");
        }
    }

    #[test]
    fn a_text_that_is_no_url_is_refused_without_showing_a_password() {
        let error = "guest secret@host".parse::<BrokerUrl>().unwrap_err();
        assert!(error.is_config() && !error.to_string().contains("secret"), "{error}");
    }
}
