//! A mail server and an SMS gateway on loopback, which count what they accept. They implement the real
//! protocols strictly, but deliver nothing.

pub mod sms;
pub mod smtp;

/// The domain whose mailboxes do not exist: the mail server refuses them with 550.
pub const REFUSED_DOMAIN: &str = "gone.example.com";

/// The prefix of numbers for which the gateway answers 503 twice before it accepts a text.
pub const BUSY_PREFIX: &str = "+15559";

/// How many of the newest messages a sink keeps for inspection.
const KEPT: usize = 100;
