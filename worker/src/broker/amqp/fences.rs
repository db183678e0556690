//! The fences of the leading schedulers, which are exchanges.
//!
//! A leader publishes to an exchange that it alone has declared, its fence, which has one binding: to the exchange
//! [`ROUTES`], to which the stream and the queue of the message are bound. A new leader first deletes the fence of the former
//! one, then reads the stream to its end: everything that the former leader sent before is in it, and anything that it sends
//! later, for instance after a pause, is refused, since the fence no longer exists.
//!
//! Queue and stream are not bound to the fence itself because RabbitMQ deletes the bindings of an exchange one by one, and
//! routes meanwhile: a call could reach the stream and not its queue. With one binding it reaches both or neither.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::broker::Publication;
use crate::connection::amqp::Amqp;
use crate::connection::amqp::channel::Scratch;
use crate::connection::amqp::declare::short;
use crate::connection::amqp::failure::{code, reply_code, text};
use crate::connection::amqp::link::lock;
use crate::error::Result;
use crate::message::headers::names;

/// The stream that is the log of the schedulers.
pub(super) const STREAM: &str = "mq-worker.schedules";
/// The exchange that routes a call to the stream and to its queue. Its bindings stay.
const ROUTES: &str = "mq-worker.schedules";
/// How long a binding is assumed to exist: it disappears when its queue is deleted.
const BOUND_FOR: Duration = Duration::from_secs(5);

/// The fences of a broker, and the bindings behind them.
pub(super) struct Fences {
    amqp: Arc<Amqp>,
    /// The target of each known binding, and when it was made.
    bound: Mutex<HashMap<String, Instant>>,
}

impl Fences {
    pub(super) fn new(amqp: Arc<Amqp>) -> Self {
        Self { amqp, bound: Mutex::default() }
    }

    pub(super) async fn delete(&self, fence: &str) -> Result<()> {
        let exchange = exchange_of(fence);
        let delete = async |mut scratch: Scratch| {
            let (name, options) = (short(&exchange)?, ExchangeDeleteOptions::default());
            scratch.run(async |c| c.exchange_delete(name, options).await).await
        };
        self.amqp.ask(&format!("delete exchange `{exchange}`"), delete).await
    }

    /// Binds the target of a message to the routes. Returns `false` if they no longer exist: the next leader declares them.
    pub(super) async fn bind(&self, target: &Target) -> Result<bool> {
        let key = target.to_header();
        if lock(&self.bound).get(&key).is_some_and(|since| since.elapsed() < BOUND_FOR) {
            return Ok(true);
        }
        let bind = async |mut scratch: Scratch| {
            let mut arguments = match_all();
            arguments.insert(names::SCHEDULE_TO.into(), AMQPValue::LongString(target.to_header().into()));
            let routes = short(ROUTES)?;
            let bound = match target {
                Target::Queue(name) => {
                    let (queue, options) = (short(name)?, QueueBindOptions::default());
                    scratch
                        .run(async |c| c.queue_bind(queue, routes, short("")?, options, arguments).await)
                        .await
                }
                Target::Exchange(name) => {
                    let (to, options) = (short(name)?, ExchangeBindOptions::default());
                    scratch
                        .run(async |c| c.exchange_bind(to, routes, short("")?, options, arguments).await)
                        .await
                }
            };
            match bound {
                Err(error)
                    if reply_code(&error) == Some(code::NOT_FOUND)
                        && text(&error).contains(&format!("exchange '{ROUTES}'")) =>
                {
                    Ok(false)
                }
                bound => bound.map(|()| true),
            }
        };
        let is_bound = self.amqp.ask(&format!("bind {target:?} to exchange `{ROUTES}`"), bind).await?;
        if is_bound {
            let mut bound = lock(&self.bound);
            bound.retain(|_, since| since.elapsed() < BOUND_FOR);
            bound.insert(key, Instant::now());
        }
        Ok(is_bound)
    }

    /// Declares the fence and the routes that it leads to.
    pub(super) async fn declare(&self, fence: &str) -> Result<()> {
        let exchange = exchange_of(fence);
        let declare = async |mut scratch: Scratch| {
            let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
            let (routes, stream, options) = (short(ROUTES)?, short(STREAM)?, QueueBindOptions::default());
            let kind = lapin::ExchangeKind::Headers;
            scratch
                .run(async |c| {
                    c.exchange_declare(routes.clone(), kind, durable, FieldTable::default()).await?;
                    c.queue_bind(stream, routes, short("")?, options, match_all()).await
                })
                .await?;
            let (fence, kind) = (short(&exchange)?, lapin::ExchangeKind::Fanout);
            scratch
                .run(async |c| {
                    let (routes, none, options) =
                        (short(ROUTES)?, FieldTable::default(), ExchangeBindOptions::default());
                    c.exchange_declare(fence.clone(), kind, durable, none.clone()).await?;
                    c.exchange_bind(routes, fence, short("")?, options, none).await
                })
                .await
        };
        self.amqp.ask(&format!("declare exchange `{exchange}`"), declare).await
    }
}

/// The exchange of a fence.
pub(super) fn exchange_of(fence: &str) -> String {
    format!("{ROUTES}.{fence}")
}

/// Arguments for a binding to a headers exchange: a message must have all of the headers that are added to them.
fn match_all() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-match".into(), AMQPValue::LongString("all".into()));
    arguments
}

/// Where a scheduled message goes.
pub(super) enum Target {
    Queue(String),
    Exchange(String),
}

impl Target {
    pub(super) fn of(publication: &Publication) -> Self {
        match publication.exchange.as_str() {
            "" => Self::Queue(publication.routing_key.clone()),
            exchange => Self::Exchange(exchange.to_owned()),
        }
    }

    /// The value of the header that its binding matches.
    pub(super) fn to_header(&self) -> String {
        match self {
            Self::Queue(name) => format!("queue:{name}"),
            Self::Exchange(name) => format!("exchange:{name}"),
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue `{name}`"),
            Self::Exchange(name) => write!(f, "exchange `{name}`"),
        }
    }
}
