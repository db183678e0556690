//! Results in Redis, in Celery's layout: a key for each task, which expires, and a channel of the same name on which each
//! change is published.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{AsyncCommands, RedisResult, Script};

use super::gathering::{BatchStore, BatchWriter, Written};
use super::hub::{Change, Hub};
use super::listening::{AnnouncingStore, Changes, Ended, Listening};
use super::{Awaited, BackendOptions, ResultBackend, ResultRecord};
use crate::connection::BrokerUrl;
use crate::connection::redis::Redis;
use crate::error::Result;
use crate::tracing;

/// Celery's prefix of keys.
const PREFIX: &str = "celery-task-meta-";

/// The maximum number of channels in one command.
const AT_ONCE: usize = 1000;
/// The silence after which a connection is checked.
const QUIET: Duration = Duration::from_secs(15);

/// Stores records of different tasks and publishes them, except where the key already has a final one. Records begin with
/// their state, as Celery's do; only one that does not is parsed as a whole. After an error, earlier records stay stored.
const STORE: &str = r#"
for n, key in ipairs(KEYS) do
  local record = ARGV[n + 1]
  local head = redis.call('GETRANGE', key, 0, 63)
  local status
  if head ~= '' then
    status = string.match(head, '^{%s*"status"%s*:%s*"([^"]*)"')
    if not status then
      local read, meta = pcall(cjson.decode, redis.call('GET', key))
      status = read and type(meta) == 'table' and meta.status
    end
  end
  if status ~= 'SUCCESS' and status ~= 'FAILURE' and status ~= 'REVOKED' then
    if ARGV[1] == '0' then
      redis.call('SET', key, record)
    else
      redis.call('SET', key, record, 'PX', ARGV[1])
    end
    redis.call('PUBLISH', key, record)
  end
end
return #KEYS
"#;

/// Celery's `redis://`.
pub(super) struct RedisBackend {
    listening: Listening<Store>,
    gathering: BatchWriter<Store>,
}

/// The keys of one program.
struct Store {
    redis: Arc<Redis>,
    /// The part of a key before the task id.
    prefix: String,
    script: Script,
    expires: Duration,
}

impl RedisBackend {
    /// Opens the results on the server that `url` names. Nothing is sent yet.
    ///
    /// # Errors
    /// An invalid URL, or a TLS file that cannot be read.
    pub(super) fn open(url: &BrokerUrl, options: &BackendOptions) -> Result<Self> {
        let redis = Arc::new(Redis::open(url, &options.connect)?);
        let prefix = format!("{}{PREFIX}", redis.key_prefix());
        let (script, expires) = (Script::new(STORE), options.expires);
        let store = Arc::new(Store { redis, prefix, script, expires });
        Ok(Self { listening: Listening::new(Arc::clone(&store)), gathering: BatchWriter::new(store) })
    }
}

impl ResultBackend for RedisBackend {
    fn expect<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        async move { self.listening.store().map(|_| None) }.boxed()
    }

    fn release(&self, _id: &str) {}

    fn store<'a>(&'a self, record: &'a ResultRecord, _to: Option<&'a str>) -> BoxFuture<'a, Result<()>> {
        async move {
            self.listening.store()?;
            self.gathering.store(record, None).await
        }
        .boxed()
    }

    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        async move { self.listening.store()?.fetch(id).await }.boxed()
    }

    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>> {
        self.listening.wait(id, awaited).boxed()
    }

    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let store = self.listening.store()?;
            let key = store.key(id);
            let delete = |mut connection: MultiplexedConnection| {
                async move { connection.del::<_, i64>(key).await }.boxed()
            };
            store.redis.ask("delete a result", delete).await.map(drop)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // Completed stores need no flush; the connections are closed with the last handle.
        self.listening.close();
        async {}.boxed()
    }
}

impl BatchStore for Store {
    const AT_ONCE: usize = 2;

    fn store_all(&self, records: Vec<Arc<Written>>) -> BoxFuture<'_, Result<()>> {
        async move {
            let script = self.script.clone();
            let keys: Vec<_> = records.iter().map(|record| self.key(&record.task_id)).collect();
            let expires = self.expires.as_millis().min(i64::MAX as u128).to_string();
            let write = move |mut connection: MultiplexedConnection| {
                async move {
                    let mut store = script.arg(expires);
                    for (key, record) in keys.iter().zip(&records) {
                        store.key(key).arg(&record.json);
                    }
                    store.invoke_async::<i64>(&mut connection).await
                }
                .boxed()
            };
            self.redis.ask("store a result", write).await.map(drop)
        }
        .boxed()
    }
}

impl AnnouncingStore for Store {
    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        async move {
            let key = self.key(id);
            let get = |mut connection: MultiplexedConnection| {
                async move { connection.get::<_, Option<Vec<u8>>>(key).await }.boxed()
            };
            let Some(json) = self.redis.ask("fetch a result", get).await? else { return Ok(None) };
            let record = ResultRecord::from_json(&json);
            record
                .map(Some)
                .map_err(|error| error.context(format_args!("cannot read the key `{}`", self.key(id))))
        }
        .boxed()
    }

    fn serve<'a>(&'a self, hub: &'a Hub, changes: &'a mut Changes) -> BoxFuture<'a, Ended> {
        async move {
            match self.redis.listen().await {
                Err(error) => Ended::NotConnected(error),
                Ok(connection) => {
                    let (sink, stream) = connection.split();
                    Ended::Lost(self.follow(hub, changes, sink, stream).await)
                }
            }
        }
        .boxed()
    }
}

impl Store {
    fn key(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    /// Passes on published results until the connection is lost, and returns the reason.
    async fn follow(
        &self,
        hub: &Hub,
        changes: &mut Changes,
        mut sink: PubSubSink,
        mut stream: PubSubStream,
    ) -> String {
        // Subscribing to all ids covers the queued changes too.
        while changes.try_recv().is_ok() {}
        let mut news = Vec::new();
        let mut answered = self.answered(self.subscribe(&mut sink, hub, hub.ids())).await;
        while answered.is_ok() {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => self.hear(hub, &message),
                    None => return "it was closed".into(),
                },
                _ = changes.recv_many(&mut news, AT_ONCE) => {
                    let adapt = self.adapt(&mut sink, hub, std::mem::take(&mut news));
                    answered = self.answered(adapt).await;
                }
                () = tokio::time::sleep(QUIET) => {
                    answered = self.answered(sink.ping::<redis::Value>()).await.map(drop);
                }
            }
        }
        answered.err().unwrap_or_default()
    }

    /// Awaits a reply with a timeout: a connection may be dead without an error.
    async fn answered<T>(&self, asked: impl Future<Output = RedisResult<T>>) -> Result<T, String> {
        match tokio::time::timeout(self.redis.timeout(), asked).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("it does not answer".into()),
        }
    }

    fn hear(&self, hub: &Hub, message: &redis::Msg) {
        let channel = message.get_channel_name();
        let Some(id) = channel.strip_prefix(&*self.prefix).filter(|id| hub.awaits(id)) else { return };
        match ResultRecord::from_json(message.get_payload_bytes()) {
            Ok(record) if record.task_id == id => hub.deliver(record),
            Ok(_) => {}
            Err(error) => tracing::warn!(channel, %error, "received something that is not a result"),
        }
    }

    /// Subscribes to newly wanted ids, and unsubscribes from those no longer wanted.
    async fn adapt(&self, sink: &mut PubSubSink, hub: &Hub, changes: Vec<Change>) -> RedisResult<()> {
        let mut wanted = HashMap::new();
        for change in changes {
            match change {
                Change::Listen(id) => wanted.insert(id, true),
                Change::Leave(id) => wanted.insert(id, false),
            };
        }
        let (listen, leave): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(_, wanted)| *wanted);
        if !leave.is_empty() {
            sink.unsubscribe(leave.iter().map(|(id, _)| self.key(id)).collect::<Vec<_>>()).await?;
        }
        self.subscribe(sink, hub, listen.into_iter().map(|(id, _)| id).collect()).await
    }

    async fn subscribe(&self, sink: &mut PubSubSink, hub: &Hub, ids: Vec<String>) -> RedisResult<()> {
        for ids in ids.chunks(AT_ONCE) {
            sink.subscribe(ids.iter().map(|id| self.key(id)).collect::<Vec<_>>()).await?;
            hub.listening(ids);
        }
        Ok(())
    }
}
