//! Results in Redis, in Celery's layout: a key for each task that expires, and a channel of the same name on which every
//! change is published.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{AsyncCommands, RedisResult, Script};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::hub::{self, Change, Hub, PAUSE};
use super::{Awaited, BackendOptions, ResultBackend, ResultRecord};
use crate::connection::redis::Redis;
use crate::connection::{BrokerUrl, background};
use crate::error::{Error, Result};
use crate::tracing;

/// Celery's prefix.
const PREFIX: &str = "celery-task-meta-";

/// How many channels one command subscribes to.
const AT_ONCE: usize = 1000;
/// A connection that hears nothing for so long is asked whether it is still there.
const QUIET: Duration = Duration::from_secs(15);

/// Stores a record and publishes it, unless the key has a final one. Records begin with their state, as Python's do; the
/// whole record is looked at only where one does not.
const STORE: &str = r#"
local head = redis.call('GETRANGE', KEYS[1], 0, 63)
if head ~= '' then
  local status = string.match(head, '^{%s*"status"%s*:%s*"([^"]*)"')
  if not status then
    local read, meta = pcall(cjson.decode, redis.call('GET', KEYS[1]))
    status = read and type(meta) == 'table' and meta.status
  end
  if status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' then return 0 end
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
"#;

/// Celery's `redis://`.
pub(super) struct RedisBackend {
    redis: Arc<Redis>,
    expires: Duration,
    store: Script,
    hub: Arc<Hub>,
    /// What the task that listens begins with; the first caller that waits takes it.
    changes: Mutex<Option<mpsc::UnboundedReceiver<Change>>>,
    listens: OnceLock<()>,
    closed: CancellationToken,
}

impl RedisBackend {
    /// The results on the server that `url` names. Nothing is sent yet.
    ///
    /// # Errors
    /// An address with a mistake, or a file for TLS that cannot be read.
    pub(super) fn open(url: &BrokerUrl, options: &BackendOptions) -> Result<Self> {
        let (hub, changes) = Hub::new();
        Ok(Self {
            redis: Arc::new(Redis::open(url, &options.connect)?),
            expires: options.expires,
            store: Script::new(STORE),
            hub,
            changes: Mutex::new(Some(changes)),
            listens: OnceLock::new(),
            closed: CancellationToken::new(),
        })
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.is_cancelled() { Err(closed()) } else { Ok(()) }
    }

    /// Starts the task that listens, with the first caller that waits.
    async fn listen(&self) -> Result<()> {
        if self.listens.get().is_some() {
            return Ok(());
        }
        let mut changes = self.changes.lock().await;
        if let Some(changes) = changes.take() {
            let listening = Listening { redis: Arc::clone(&self.redis), hub: Arc::clone(&self.hub), changes };
            let closed = self.closed.clone();
            background::spawn(async move { closed.run_until_cancelled(listening.work()).await })?;
            let _ = self.listens.set(());
        }
        Ok(())
    }

    async fn wait_for(&self, id: &str, awaited: Awaited) -> Result<ResultRecord> {
        // A server that cannot be reached, or refuses us, is an error at once; later on, it is waited for.
        if let Some(record) = self.fetch(id).await?
            && awaited.is_met_by(&record)
        {
            return Ok(record);
        }
        self.listen().await?;
        hub::wait(self.hub.listen(id), awaited, || self.fetch(id)).await
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn closed() -> Error {
    Error::connection("the result backend was closed")
}

impl ResultBackend for RedisBackend {
    fn expect<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        async move { self.check_open().map(|()| None) }.boxed()
    }

    fn release(&self, _id: &str) {}

    fn store<'a>(&'a self, record: &'a ResultRecord, _to: Option<&'a str>) -> BoxFuture<'a, Result<()>> {
        async move {
            self.check_open()?;
            let (key, json) = (key(&record.task_id), record.to_json());
            let (script, expires) =
                (self.store.clone(), self.expires.as_millis().min(i64::MAX as u128).to_string());
            let store = |mut connection| {
                async move {
                    script.key(key).arg(json).arg(expires).invoke_async::<i64>(&mut connection).await
                }
                .boxed()
            };
            self.redis.ask("store a result", store).await.map(drop)
        }
        .boxed()
    }

    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        async move {
            self.check_open()?;
            let key = key(id);
            let get = |mut connection: redis::aio::ConnectionManager| {
                async move { connection.get::<_, Option<Vec<u8>>>(key).await }.boxed()
            };
            let Some(json) = self.redis.ask("fetch a result", get).await? else { return Ok(None) };
            let record = ResultRecord::from_json(&json);
            record
                .map(Some)
                .map_err(|error| error.context(format_args!("cannot read the key `{PREFIX}{id}`")))
        }
        .boxed()
    }

    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>> {
        async move {
            tokio::select! {
                record = self.wait_for(id, awaited) => record,
                () = self.closed.cancelled() => Err(closed()),
            }
        }
        .boxed()
    }

    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.check_open()?;
            let key = key(id);
            let delete = |mut connection: redis::aio::ConnectionManager| {
                async move { connection.del::<_, i64>(key).await }.boxed()
            };
            self.redis.ask("delete a result", delete).await.map(drop)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // What was stored is stored; the connections end with the last handle.
        self.closed.cancel();
        async {}.boxed()
    }
}

impl Drop for RedisBackend {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// The one connection that receives results, for all that wait.
struct Listening {
    redis: Arc<Redis>,
    hub: Arc<Hub>,
    changes: mpsc::UnboundedReceiver<Change>,
}

impl Listening {
    /// Listens for ever, through every reconnect.
    async fn work(mut self) {
        let (mut pause, longest) = PAUSE;
        loop {
            match self.redis.listen().await {
                Ok(connection) => {
                    pause = PAUSE.0;
                    let (sink, stream) = connection.split();
                    if let Err(error) = self.serve(sink, stream).await {
                        tracing::warn!(%error, "lost the connection that listens for results");
                    }
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), again_in = ?pause, "cannot listen for results");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn serve(&mut self, mut sink: PubSubSink, mut stream: PubSubStream) -> RedisResult<()> {
        // All at once takes care of what is in the channel too.
        while self.changes.try_recv().is_ok() {}
        subscribe(&mut sink, &self.hub, self.hub.ids()).await?;
        let mut changes = Vec::new();
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => self.hear(&message),
                    None => return Ok(()),
                },
                _ = self.changes.recv_many(&mut changes, AT_ONCE) => {
                    self.follow(&mut sink, std::mem::take(&mut changes)).await?;
                }
                () = tokio::time::sleep(QUIET) => {
                    let ping = tokio::time::timeout(self.redis.timeout(), sink.ping::<redis::Value>());
                    match ping.await {
                        Ok(answer) => drop(answer?),
                        Err(_) => return Ok(()),
                    }
                }
            }
        }
    }

    fn hear(&self, message: &redis::Msg) {
        let channel = message.get_channel_name();
        let Some(id) = channel.strip_prefix(PREFIX).filter(|id| self.hub.awaits(id)) else { return };
        match ResultRecord::from_json(message.get_payload_bytes()) {
            Ok(record) if record.task_id == id => self.hub.tell(record),
            Ok(_) => {}
            Err(error) => tracing::warn!(channel, %error, "heard something that is not a result"),
        }
    }

    /// Subscribes to what is wanted now, and leaves what is not.
    async fn follow(&self, sink: &mut PubSubSink, changes: Vec<Change>) -> RedisResult<()> {
        let mut wanted = HashMap::new();
        for change in changes {
            match change {
                Change::Listen(id) => wanted.insert(id, true),
                Change::Leave(id) => wanted.insert(id, false),
            };
        }
        let (listen, leave): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(_, wanted)| *wanted);
        if !leave.is_empty() {
            sink.unsubscribe(leave.iter().map(|(id, _)| key(id)).collect::<Vec<_>>()).await?;
        }
        subscribe(sink, &self.hub, listen.into_iter().map(|(id, _)| id).collect()).await
    }
}

async fn subscribe(sink: &mut PubSubSink, hub: &Hub, ids: Vec<String>) -> RedisResult<()> {
    for ids in ids.chunks(AT_ONCE) {
        sink.subscribe(ids.iter().map(|id| key(id)).collect::<Vec<_>>()).await?;
        hub.hears(ids);
    }
    Ok(())
}
