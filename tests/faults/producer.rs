//! The producer process: sends tasks and logs each intent and outcome.

use std::time::Duration;

use fastrand::Rng;
use mq_worker::canvas::SendOptions;
use mq_worker::{App, AsyncResult, Error, Exchange, ExchangeKind, Topology};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::log::{Answer, Event, Kind, now};
use crate::mutation;
use crate::pace::{MIXED, Pace};
use crate::work::log;

/// An exchange without a queue.
const NOWHERE: &str = "faults.nowhere";
/// The number of publishes in flight.
const IN_FLIGHT: usize = 8;
/// The same under load.
const IN_FLIGHT_UNDER_LOAD: usize = 256;
/// How often a task is sent again while the outcome is unknown.
const AGAIN: usize = 2;
/// How long a caller waits for a result. It may never arrive: on RabbitMQ its queue dies with the connection.
const RESULT: Duration = Duration::from_secs(5);

/// A task to send: its kind and its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    kind: Kind,
    /// Its duration or delay; for poison, the number of its first death.
    millis: u64,
}

/// One line of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Send(Order),
    Wait(Duration),
}

/// Sends what the environment specifies until it is told to stop or everything is sent.
pub(crate) fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(produce());
}

async fn produce() {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened to");
    let mut builder = App::builder();
    if let Some(wrap) = mutation::of_this_process() {
        builder = builder.wrap_broker(wrap);
    }
    let app = builder.install().expect("the control has set a good configuration");
    let prefix = format!("{}-{}", std::env::var("FAULTS_NAME").expect("a name"), std::process::id());
    let mut orders = Orders::of_this_process();
    let mut sending = JoinSet::new();
    let mut number = 0;
    loop {
        let order = tokio::select! {
            biased;
            _ = terminate.recv() => break,
            order = orders.next() => order,
        };
        let Some(order) = order else { break };
        number += 1;
        let id = format!("{prefix}-{number}");
        while sending.len() >= orders.at_once() {
            sending.join_next().await;
        }
        sending.spawn(send(app.clone(), id, order));
    }
    // Wait for publishes in flight, but not for results.
    while sending.join_next().await.is_some() {}
    app.close().await;
}

/// Sends one task, repeatedly if necessary.
async fn send(app: App, id: String, order: Order) {
    let Order { kind, millis } = order;
    let countdown = (kind == Kind::Later).then(|| Duration::from_millis(millis));
    let due = countdown.map(|countdown| now() + countdown);
    log().write(Event::Intent { id: id.clone(), kind, due });
    // The same time in the log and in the message, however often it is sent.
    let eta =
        due.and_then(|due| chrono::DateTime::from_timestamp_micros(i64::try_from(due.as_micros()).ok()?));
    for _ in 0..=AGAIN {
        let sent = publish(&app, &id, order, eta).await;
        let answer = match &sent {
            Ok(_) => Answer::Ok,
            Err(error) => answer(error),
        };
        log().write(Event::Answered { id: id.clone(), answer });
        match sent {
            Ok(Some(job)) => return expect(job, id, millis).await,
            Err(error) if answer == Answer::Unknown => {
                eprintln!("{id}: {error:#}");
                log().write(Event::Again { id: id.clone() });
            }
            Err(error) => return eprintln!("{id}: {error:#}"),
            Ok(None) => return,
        }
    }
}

async fn publish(
    app: &App,
    id: &str,
    order: Order,
    eta: Option<chrono::DateTime<chrono::Utc>>,
) -> mq_worker::Result<Option<AsyncResult<u64>>> {
    let mut options = SendOptions { task_id: Some(id.to_owned()), eta, ..SendOptions::default() };
    let (task, has_argument) = match order.kind {
        Kind::Quick | Kind::Later | Kind::Nowhere => ("faults.quick", false),
        Kind::Slow => ("faults.slow", true),
        Kind::Blocking => ("faults.blocking", true),
        Kind::Flaky => ("faults.flaky", false),
        Kind::Reject => ("faults.reject", false),
        Kind::Value => ("faults.value", true),
        Kind::Poison => ("faults.poison", true),
    };
    if order.kind == Kind::Nowhere {
        let exchange = Exchange::new(NOWHERE, ExchangeKind::Direct);
        let topology = Topology { exchanges: vec![exchange], ..Topology::default() };
        app.broker().await?.declare(&topology).await?;
        (options.exchange, options.routing_key) = (Some(NOWHERE.to_owned()), Some("nobody".to_owned()));
    }
    if std::env::var_os("MQ_RESULT_BACKEND").is_some() {
        // With a store under test, all results are stored.
        options.ignore_result = Some(false);
    }
    let arguments: Vec<u64> = if has_argument { vec![order.millis] } else { Vec::new() };
    let job = app.send_call::<u64>(task, &arguments, &serde_json::Map::new(), options).await?;
    Ok((order.kind == Kind::Value).then_some(job))
}

fn answer(error: &Error) -> Answer {
    if error.is_unknown() {
        Answer::Unknown
    } else if error.is_connection() || error.is_timeout() {
        Answer::Unreachable
    } else {
        Answer::Rejected
    }
}

/// Waits a limited time for the result.
async fn expect(job: AsyncResult<u64>, id: String, argument: u64) {
    match job.get().timeout(RESULT).await {
        Ok(result) => log().write(Event::Got { id, is_right: result == argument + 1 }),
        Err(error) if error.is_timeout() || error.is_connection() => {}
        Err(error) if error.task_failure().is_some_and(|failure| failure.kind == "WorkerLost") => {}
        Err(error) => {
            eprintln!("{id}: {error:#}");
            log().write(Event::Got { id, is_right: false });
        }
    }
}

/// The source of orders.
enum Orders {
    /// Endless random orders with a pause before each.
    Random { rng: Rng, pause: Duration, poison: usize },
    /// The same, mixed with enough quick ones to reach the rate.
    Load { rng: Rng, pace: Pace, mixed: f64, poison: usize },
    /// Exactly these, in order.
    Script(std::vec::IntoIter<Word>),
}

impl Orders {
    fn of_this_process() -> Orders {
        if let Ok(script) = std::env::var("FAULTS_SCRIPT") {
            return Orders::Script(parse(&script).expect("the control writes good scripts").into_iter());
        }
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let rng = Rng::with_seed(number("FAULTS_SEED").unwrap_or_default());
        let poison = usize::try_from(number("FAULTS_POISON").unwrap_or_default()).unwrap_or_default();
        match number("FAULTS_MICROS") {
            Some(micros) => {
                let every = Duration::from_micros(micros.max(1));
                Orders::Load { rng, pace: Pace::new(every), mixed: MIXED * every.as_secs_f64(), poison }
            }
            None => {
                let pause = Duration::from_millis(number("FAULTS_PAUSE").unwrap_or(30));
                Orders::Random { rng, pause, poison }
            }
        }
    }

    fn at_once(&self) -> usize {
        match self {
            Orders::Random { .. } => IN_FLIGHT,
            Orders::Load { .. } => IN_FLIGHT_UNDER_LOAD,
            Orders::Script(_) => 1,
        }
    }

    async fn next(&mut self) -> Option<Order> {
        match self {
            Orders::Script(words) => loop {
                match words.next()? {
                    Word::Send(order) => return Some(order),
                    Word::Wait(pause) => tokio::time::sleep(pause).await,
                }
            },
            Orders::Random { rng, pause, poison } => {
                tokio::time::sleep(*pause).await;
                Some(random(rng, poison))
            }
            Orders::Load { rng, pace, mixed, poison } => {
                pace.wait().await;
                match rng.f64() < *mixed {
                    true => Some(random(rng, poison)),
                    false => Some(Order { kind: Kind::Quick, millis: 0 }),
                }
            }
        }
    }
}

/// Returns a random order; poison only while there is some left.
fn random(rng: &mut Rng, poison: &mut usize) -> Order {
    if *poison > 0 && rng.u8(0..40) == 0 {
        *poison -= 1;
        return Order { kind: Kind::Poison, millis: rng.u64(0..5) };
    }
    let kind = match rng.u8(0..100) {
        0..55 => Kind::Quick,
        55..62 => Kind::Slow,
        62..66 => Kind::Blocking,
        66..76 => Kind::Flaky,
        76..80 => Kind::Reject,
        80..90 => Kind::Later,
        90..97 => Kind::Value,
        _ => Kind::Nowhere,
    };
    let millis = match kind {
        Kind::Later => rng.u64(1000..3000),
        _ => rng.u64(200..2000),
    };
    Order { kind, millis }
}

/// Parses a script such as `quick*10 wait:500 slow:2000 later:1500*3`: kind, milliseconds, repetitions.
fn parse(script: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    for text in script.split_ascii_whitespace() {
        let bad = |_| format!("`{text}` cannot be read");
        let (one, count) = text.split_once('*').unwrap_or((text, "1"));
        let (kind, millis) = one.split_once(':').unwrap_or((one, "0"));
        let millis = millis.parse().map_err(bad)?;
        let word = match kind {
            "wait" => Word::Wait(Duration::from_millis(millis)),
            kind => Word::Send(Order { kind: kind.parse()?, millis }),
        };
        words.extend(std::iter::repeat_n(word, count.parse().map_err(bad)?));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_a_list_of_words() {
        let slow = Word::Send(Order { kind: Kind::Slow, millis: 20 });
        let quick = Word::Send(Order { kind: Kind::Quick, millis: 0 });
        assert_eq!(
            parse("slow:20*2 wait:5 quick"),
            Ok(vec![slow, slow, Word::Wait(Duration::from_millis(5)), quick])
        );
        assert!(parse("slow:x").is_err() && parse("nothing").is_err());
    }
}
