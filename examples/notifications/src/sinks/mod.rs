//! A mail server and an SMS gateway on loopback, which keep count of what they take. They speak the real
//! protocols and are picky about them, but deliver nothing.

pub mod sms;
pub mod smtp;

/// The domain whose mailboxes do not exist: the mail server refuses them with 550.
pub const REFUSED_DOMAIN: &str = "gone.example.com";

/// How numbers begin for which the gateway answers 503 twice before it takes a text.
pub const BUSY_PREFIX: &str = "+15559";

/// How many of the newest messages a sink keeps for looking at them.
const KEPT: usize = 100;
