//! The ladders on which delayed messages wait: names and routing keys, without I/O.
//!
//! Delays of whole seconds use the ladder of Celery's native delayed delivery, with the same names, so that a fleet of
//! Python workers (5.5 and later) shares it: rung L is a queue whose messages expire after 2^L seconds and fall to the
//! rung below; 28 binary words before the routing key determine the rungs on which a message stops. The exit is the
//! topic exchange `celery_delayed_delivery`, to which each target is bound with 28 stars before its key.
//!
//! Delays below a second use a second, smaller ladder of our own with the same 28 words and the same exit. Its rungs
//! use the last words, so that one binding serves both ladders.
//!
//! | target | words after the 28 |
//! |---|---|
//! | a queue | its name, which is what Celery writes |
//! | a queue whose name is too long for that, or would be a pattern | `mq-queue` and a hash of its name |
//! | an exchange | `mq-exchange`, the exchange's name as one word, the routing key |
//!
//! Celery binds the exchange itself to the exit. The routing key would then arrive there with its 28 words in front
//! and match no binding, so here each *queue* that is bound to an exchange is bound to the exit as well, with the
//! same pattern behind the prefix. That is exact for direct, topic and fanout exchanges.

use std::time::Duration;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::routing::ExchangeKind;
use crate::routing::names::MAX_NAME;

/// How many words determine where a message stops.
const WORDS: usize = 28;
/// The longest delay.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs((1 << WORDS) - 1);
/// The exchange at the end of the ladders.
pub(crate) const EXIT: &str = "celery_delayed_delivery";
/// Takes and drops a copy of every delayed message to an exchange, which makes the message routable. Without it, a
/// message without subscribers would stay on the last rung and be retried forever.
pub(crate) const SINK: &str = "mq_worker_delayed_sink";
/// The first word after the 28 for a message to an exchange.
const TO_EXCHANGE: &str = "mq-exchange";
/// The first word after the 28 for a message to a queue whose name cannot be used there.
const TO_QUEUE: &str = "mq-queue";
/// The namespace for hashes of queue names.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d71_776b_0000_5000_8000_6465_6c61_7973);
/// The finest step of the small ladder.
const STEP_MILLIS: u64 = 16;
/// 16, 32, 64, 128, 256 and 512 ms: up to 1008 ms.
const SMALL_RUNGS: usize = 6;

/// One rung: a queue, and an exchange of the same name that stops a message here or lets it fall.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rung {
    /// The name of the exchange and of the queue.
    pub(crate) name: String,
    /// The exchange below.
    pub(crate) below: String,
    /// How long messages stay.
    pub(crate) stay: Duration,
    /// The pattern for messages that stop here.
    pub(crate) stops: String,
    /// The pattern for messages that fall through.
    pub(crate) falls: String,
}

/// Celery's ladder, the lowest rung first.
pub(crate) fn seconds_ladder() -> Vec<Rung> {
    let name = |level: usize| format!("celery_delayed_{level}");
    rungs(WORDS, name, |level| Duration::from_secs(1 << level))
}

/// The ladder for less than a second, the lowest rung first.
pub(crate) fn small_ladder() -> Vec<Rung> {
    rungs(SMALL_RUNGS, small_name, |level| Duration::from_millis(STEP_MILLIS << level))
}

fn small_name(level: usize) -> String {
    format!("mq_worker_delayed_ms_{}", STEP_MILLIS << level)
}

fn rungs(count: usize, name: impl Fn(usize) -> String, stay: impl Fn(usize) -> Duration) -> Vec<Rung> {
    (0..count)
        .map(|level| {
            let stars = "*.".repeat(WORDS - 1 - level);
            Rung {
                name: name(level),
                below: level.checked_sub(1).map_or_else(|| EXIT.to_owned(), &name),
                stay: stay(level),
                stops: format!("{stars}1.#"),
                falls: format!("{stars}0.#"),
            }
        })
        .collect()
}

/// Which ladder a delay uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ladder {
    /// Whole seconds; the fraction is dropped.
    Seconds(u32),
    /// Steps of the small ladder, rounded up.
    Small(u32),
}

impl Ladder {
    /// Chooses the ladder for a delay; `None` for no delay.
    ///
    /// # Errors
    /// A delay beyond [`MAX_DELAY`].
    pub(crate) fn choose(delay: Duration) -> Result<Option<Self>> {
        if delay > MAX_DELAY {
            return Err(Error::config(format!(
                "a delay of {} is too long for RabbitMQ: at most {}",
                humantime::format_duration(Duration::from_secs(delay.as_secs())),
                humantime::format_duration(MAX_DELAY),
            )));
        }
        if delay.is_zero() {
            return Ok(None);
        }
        let seconds = u32::try_from(delay.as_secs()).expect("MAX_DELAY fits");
        if seconds > 0 {
            return Ok(Some(Self::Seconds(seconds)));
        }
        let steps = delay.as_nanos().div_ceil(u128::from(STEP_MILLIS) * 1_000_000);
        Ok(Some(Self::Small(u32::try_from(steps).expect("less than a second"))))
    }

    /// The exchange to publish to: that of the first rung where the message stops. Celery publishes to the highest
    /// rung, from where the message falls to the same place; but each rung on the way costs RabbitMQ as much as a
    /// publish.
    pub(crate) fn entry(self) -> String {
        let highest = |bits: u32| bits.ilog2() as usize;
        match self {
            Self::Seconds(seconds) => format!("celery_delayed_{}", highest(seconds)),
            Self::Small(steps) => small_name(highest(steps)),
        }
    }

    /// The routing key to publish with.
    ///
    /// # Errors
    /// A target whose name is too long with the prefix.
    pub(crate) fn key(self, target: &Target<'_>) -> Result<String> {
        let (Self::Seconds(bits) | Self::Small(bits)) = self;
        let mut key = String::with_capacity(2 * WORDS + 32);
        for level in (0..WORDS).rev() {
            key.push_str(if bits >> level & 1 == 1 { "1." } else { "0." });
        }
        key.push_str(&target.suffix()?);
        Ok(key)
    }
}

impl Ladder {
    /// The most bytes that RabbitMQ adds to the headers of a message with this key: where it was dead-lettered first
    /// and last, and in `x-death` an entry for each rung on which it stops.
    pub(crate) fn traces(self, key: &str) -> usize {
        const DEATHS: usize = 512;
        const ENTRY: usize = 192;
        let (Self::Seconds(bits) | Self::Small(bits)) = self;
        DEATHS + bits.count_ones() as usize * (ENTRY + key.len())
    }
}

/// The final destination of a delayed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Queue(&'a str),
    Exchange { name: &'a str, routing_key: &'a str },
}

impl<'a> Target<'a> {
    pub(crate) fn new(exchange: &'a str, routing_key: &'a str) -> Self {
        match exchange {
            "" => Self::Queue(routing_key),
            name => Self::Exchange { name, routing_key },
        }
    }

    /// The exchange and routing key.
    pub(crate) fn address(self) -> (&'a str, &'a str) {
        match self {
            Self::Queue(name) => ("", name),
            Self::Exchange { name, routing_key } => (name, routing_key),
        }
    }

    fn suffix(&self) -> Result<String> {
        let suffix = match self {
            // Any unique word will do, since each queue is bound to the exit with its own.
            Self::Queue(name) if !is_suffix(name) => {
                format!("{TO_QUEUE}.{}", Uuid::new_v5(&NAMESPACE, name.as_bytes()).simple())
            }
            Self::Queue(name) => (*name).to_owned(),
            Self::Exchange { name, routing_key } => format!("{TO_EXCHANGE}.{}.{routing_key}", word(name)),
        };
        fits(&suffix)?;
        Ok(suffix)
    }

    /// The key that binds a target queue to the exit.
    ///
    /// # Errors
    /// As [`Ladder::key`].
    pub(crate) fn binding(&self) -> Result<String> {
        Ok(behind_stars(&self.suffix()?))
    }
}

/// The key that binds a queue to the exit, if it is bound to `exchange` with `pattern`.
///
/// # Errors
/// A pattern that is too long with the prefix.
pub(crate) fn exchange_binding(exchange: &str, kind: Option<ExchangeKind>, pattern: &str) -> Result<String> {
    let pattern = match kind {
        // These ignore routing keys.
        Some(ExchangeKind::Fanout | ExchangeKind::Headers) => "#",
        Some(ExchangeKind::Topic | ExchangeKind::Direct) | None => pattern,
    };
    let suffix = format!("{TO_EXCHANGE}.{}.{pattern}", word(exchange));
    fits(&suffix)?;
    Ok(behind_stars(&suffix))
}

/// The key that binds the sink to the exit.
pub(crate) fn sink_binding() -> String {
    behind_stars(&format!("{TO_EXCHANGE}.#"))
}

/// True when the name of a queue can follow the 28 words: it fits, is not a pattern that matches delayed messages of
/// other queues, and does not start with one of our own words.
fn is_suffix(queue: &str) -> bool {
    let mut words = queue.split('.');
    fits(queue).is_ok()
        && !words.clone().any(|word| word == "*" || word == "#")
        && !words.next().is_some_and(|word| word == TO_EXCHANGE || word == TO_QUEUE)
}

fn behind_stars(suffix: &str) -> String {
    "*.".repeat(WORDS) + suffix
}

fn fits(suffix: &str) -> Result<()> {
    if suffix.len() + 2 * WORDS <= MAX_NAME {
        return Ok(());
    }
    Err(Error::config(format!(
        "a delayed message cannot go to `{suffix}`: {} bytes with the prefix of the delay, AMQP allows {MAX_NAME}",
        suffix.len() + 2 * WORDS
    )))
}

/// True for the exchange of a rung, and for the exit.
pub(crate) fn is_rung(exchange: &str) -> bool {
    exchange.starts_with("celery_delayed") || exchange.starts_with("mq_worker_delayed")
}

/// The exchange and routing key of a delivery, without the traces of a delay.
///
/// A message that Celery delayed to an exchange does not name the exchange, so this returns the address of the queue
/// that holds it.
pub(crate) fn without_delay(queue: &str, exchange: &str, routing_key: &str) -> (String, String) {
    let Some(rest) = is_rung(exchange).then(|| strip(routing_key)).flatten() else {
        return (exchange.to_owned(), routing_key.to_owned());
    };
    let target = rest.strip_prefix(TO_EXCHANGE).and_then(|rest| rest.strip_prefix('.'));
    match target.and_then(|rest| rest.split_once('.')) {
        Some((exchange, routing_key)) => (from_word(exchange), routing_key.to_owned()),
        None => (String::new(), queue.to_owned()),
    }
}

fn strip(routing_key: &str) -> Option<&str> {
    let (prefix, rest) = routing_key.split_at_checked(2 * WORDS)?;
    let is_prefix = prefix.as_bytes().chunks(2).all(|word| matches!(word, b"0." | b"1."));
    is_prefix.then_some(rest)
}

/// Escapes a name into one word without wildcards.
fn word(name: &str) -> String {
    name.replace('%', "%25").replace('.', "%2e").replace('*', "%2a").replace('#', "%23")
}

fn from_word(word: &str) -> String {
    word.replace("%23", "#").replace("%2a", "*").replace("%2e", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests;
