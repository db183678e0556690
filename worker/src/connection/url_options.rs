//! The options that a URL may have after `?`, and the values that they take.

use std::fmt;
use std::ops::RangeInclusive;

use Values::{Number, OneOf, Secret, Text};

/// An option in a URL: `?heartbeat=20`.
pub(super) struct UrlOption {
    pub(super) name: &'static str,
    pub(super) values: Values,
}

pub(super) enum Values {
    /// A whole number of this unit.
    Number(RangeInclusive<u64>, &'static str),
    /// One of these words, in upper or lower case.
    OneOf(&'static [&'static str]),
    Text,
    /// A text that is never shown.
    Secret,
}

/// `lapin` allocates 64 frames for each connection; below the smallest frame of AMQP 0-9-1, the handshake fails.
const FRAME_MAX: RangeInclusive<u64> = 4096..=16 * 1024 * 1024;

const AMQP: [UrlOption; 5] = [
    option("heartbeat", Number(0..=65_535, "seconds")),
    option("connection_timeout", Number(1..=3_600_000, "milliseconds")),
    option("channel_max", Number(0..=65_535, "channels")),
    option("frame_max", Number(FRAME_MAX, "bytes")),
    option("auth_mechanism", OneOf(&["plain", "amqplain", "external", "anonymous", "rabbit-cr-demo"])),
];

const POSTGRES: [UrlOption; 4] = [
    option("sslmode", OneOf(&["disable", "prefer", "require"])),
    option("connect_timeout", Number(0..=3_600, "seconds")),
    option("application_name", Text),
    option("target_session_attrs", OneOf(&["any", "read-write", "read-only"])),
];

/// The first for all servers, the others for sentinels.
const REDIS: [UrlOption; 4] = [
    option("key_prefix", Text),
    option("master_name", Text),
    option("sentinel_username", Secret),
    option("sentinel_password", Secret),
];

const fn option(name: &'static str, values: Values) -> UrlOption {
    UrlOption { name, values }
}

/// The options for URLs of a scheme.
pub(super) fn of_scheme(scheme: &str) -> &'static [UrlOption] {
    match scheme {
        "amqp" | "amqps" => &AMQP,
        "postgres" | "postgresql" => &POSTGRES,
        "redis" | "rediss" => &REDIS[..1],
        "sentinel" | "sentinels" => &REDIS,
        _ => &[],
    }
}

/// True unless the value of this option could be secret.
pub(super) fn may_show(name: &str, value: &str) -> bool {
    let mut known = AMQP.iter().chain(&POSTGRES).chain(&REDIS);
    let Some(option) = known.find(|option| option.name == name) else { return false };
    match &option.values {
        Text => true,
        Secret => false,
        // Anything else is a mistake, perhaps the rest of a password.
        values => values.accept(value) || value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
    }
}

impl Values {
    pub(super) fn accept(&self, value: &str) -> bool {
        match self {
            Number(range, _) => value.parse().is_ok_and(|number| range.contains(&number)),
            OneOf(words) => words.iter().any(|word| word.eq_ignore_ascii_case(value)),
            Text | Secret => true,
        }
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number(range, unit) => write!(f, "{} to {} {unit}", range.start(), range.end()),
            OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Text | Secret => f.write_str("any text"),
        }
    }
}
