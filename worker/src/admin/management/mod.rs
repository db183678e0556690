//! RabbitMQ's management API: what AMQP does not tell a client, above all which queues there are.

mod http;

use std::time::{Duration, SystemTime};

use lapin::uri::AMQPScheme;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use self::http::Http;
#[cfg(feature = "dashboard")]
use chrono::DateTime;

#[cfg(feature = "dashboard")]
use super::connection::ConnectionInfo;
use crate::admin::failure::{Failure, Outcome};
use crate::app::Config;
use crate::broker::{ExchangeInfo, QueueInfo};
use crate::connection::BrokerUrl;
use crate::connection::amqp::address::Address;
use crate::routing::{Binding, ExchangeKind};

/// The API's largest page size.
const PAGE_SIZE: usize = 500;
/// A broker with more queues than this is not listed in full.
const MOST_PAGES: usize = 20;
/// Encoded in a path: everything but unreserved characters.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The API, for one virtual host.
pub(crate) struct Management {
    http: Http,
    /// The virtual host, as it is written in a path.
    vhost: String,
}

/// What was listed, and how many more there are.
pub(crate) struct Listed<T> {
    pub(crate) found: Vec<T>,
    pub(crate) left_out: usize,
}

/// A queue as the API shows it. Its counts are up to five seconds old, and missing for as long after its creation.
#[derive(Debug, Deserialize)]
pub(crate) struct ListedQueue {
    pub(crate) name: String,
    #[serde(default)]
    messages_ready: Option<u64>,
    #[serde(default)]
    messages_unacknowledged: Option<u64>,
    #[serde(default)]
    consumers: Option<u64>,
    #[serde(default)]
    pub(crate) exclusive: bool,
    #[serde(default)]
    pub(crate) auto_delete: bool,
    #[serde(default)]
    arguments: serde_json::Value,
    /// Seconds since 1970, if the oldest message has a timestamp.
    #[serde(default)]
    head_message_timestamp: Option<serde_json::Value>,
}

impl ListedQueue {
    pub(crate) fn info(&self) -> QueueInfo {
        QueueInfo {
            name: self.name.clone(),
            ready: self.messages_ready.unwrap_or_default(),
            running: self.messages_unacknowledged,
            delayed: None,
            consumers: self.consumers.unwrap_or_default(),
        }
    }

    /// How long its oldest message has waited, if that message has a timestamp.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let sent = self.head_message_timestamp.as_ref()?.as_u64().filter(|seconds| *seconds > 0)?;
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(sent))?).ok()
    }

    /// True for a queue that is deleted automatically when its owner is gone.
    pub(crate) fn is_temporary(&self) -> bool {
        self.exclusive || self.auto_delete || self.arguments.get("x-expires").is_some()
    }
}

#[derive(Deserialize)]
struct ListedExchange {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    durable: bool,
    #[serde(default)]
    auto_delete: bool,
}

#[derive(Deserialize)]
struct ListedBinding {
    source: String,
    destination: String,
    destination_type: String,
    routing_key: String,
}

#[cfg(feature = "dashboard")]
#[derive(Deserialize)]
struct ListedConnection {
    name: String,
    user: Option<String>,
    user_provided_name: Option<String>,
    peer_host: Option<String>,
    peer_port: Option<u16>,
    state: Option<String>,
    channels: Option<u64>,
    connected_at: Option<i64>,
}

/// A page; brokers older than 3.6 answer with the bare list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Page<T> {
    Paged { items: Vec<T>, page_count: usize, filtered_count: usize },
    Bare(Vec<T>),
}

impl Management {
    /// The API of a broker: at `management_url`, or else on the usual port of the broker's host.
    pub(crate) fn of(config: &Config) -> Outcome<Self> {
        let uri = Address::new(&config.broker_url, &config.tls)?.uri;
        let host = match uri.authority.host.as_str() {
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        let (base, credentials) = match &config.management_url {
            Some(url) => split(url),
            None if uri.scheme == AMQPScheme::AMQPS => (format!("https://{host}:15671"), None),
            None => (format!("http://{host}:15672"), None),
        };
        let user = uri.authority.userinfo;
        let credentials = credentials.unwrap_or((user.username, user.password));
        Ok(Self { vhost: encoded(&uri.vhost), http: Http::new(base, credentials, uri.vhost, &config.tls)? })
    }

    /// All queues of the virtual host, up to some ten thousand.
    pub(crate) async fn queues(&self) -> Outcome<Listed<ListedQueue>> {
        let columns = "name,messages_ready,messages_unacknowledged,consumers,exclusive,auto_delete,arguments,\
                       head_message_timestamp";
        self.pages("queues", columns).await
    }

    /// All exchanges that are not the broker's own.
    pub(crate) async fn exchanges(&self) -> Outcome<Listed<ExchangeInfo>> {
        let Listed { found, left_out } =
            self.pages::<ListedExchange>("exchanges", "name,type,durable,auto_delete").await?;
        let own = |name: &str| name.is_empty() || name.starts_with("amq.");
        let info = |exchange: ListedExchange| ExchangeInfo {
            name: exchange.name,
            kind: ExchangeKind::deserialize(
                serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&exchange.kind),
            )
            .ok(),
            durable: Some(exchange.durable),
            auto_delete: Some(exchange.auto_delete),
        };
        let found = found.into_iter().filter(|exchange| !own(&exchange.name)).map(info).collect();
        Ok(Listed { found, left_out })
    }

    /// The bindings of queues: of one exchange, of one queue, or all.
    pub(crate) async fn bindings(
        &self,
        exchange: Option<&str>,
        queue: Option<&str>,
    ) -> Outcome<Vec<Binding>> {
        let vhost = &self.vhost;
        let path = match (exchange, queue) {
            (_, Some(queue)) => format!("queues/{vhost}/{}/bindings", encoded(queue)),
            (Some(exchange), _) => format!("exchanges/{vhost}/{}/bindings/source", encoded(exchange)),
            (None, None) => format!("bindings/{vhost}"),
        };
        let columns = "source,destination,destination_type,routing_key";
        let listed: Option<Vec<ListedBinding>> = self.get(format!("/api/{path}?columns={columns}")).await?;
        let of_queue = |binding: ListedBinding| {
            (binding.destination_type == "queue" && !binding.source.is_empty())
                .then(|| Binding::new(binding.source, binding.destination, binding.routing_key))
        };
        Ok(listed.unwrap_or_default().into_iter().filter_map(of_queue).collect())
    }

    /// The connections to the virtual host.
    #[cfg(feature = "dashboard")]
    pub(crate) async fn connections(&self) -> Outcome<Vec<ConnectionInfo>> {
        let columns = "name,user,user_provided_name,peer_host,peer_port,state,channels,connected_at";
        let listed: Option<Vec<ListedConnection>> =
            self.get(format!("/api/vhosts/{}/connections?columns={columns}", self.vhost)).await?;
        let info = |connection: ListedConnection| ConnectionInfo {
            name: connection.user_provided_name.unwrap_or(connection.name),
            user: connection.user.unwrap_or_default(),
            peer: match (connection.peer_host, connection.peer_port) {
                (Some(host), Some(port)) => format!("{host}:{port}"),
                (host, _) => host.unwrap_or_default(),
            },
            state: connection.state.unwrap_or_default(),
            channels: connection.channels.unwrap_or_default(),
            since: connection.connected_at.and_then(DateTime::from_timestamp_millis),
        };
        Ok(listed.ok_or_else(|| self.http.no_vhost())?.into_iter().map(info).collect())
    }

    async fn pages<T>(&self, what: &str, columns: &str) -> Outcome<Listed<T>>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let mut found = Vec::new();
        for page in 1..=MOST_PAGES {
            let path = format!(
                "/api/{what}/{}?page={page}&page_size={PAGE_SIZE}&sort=name&columns={columns}",
                self.vhost
            );
            match self.get(path).await?.ok_or_else(|| self.http.no_vhost())? {
                Page::Bare(items) => {
                    found.extend(items);
                    break;
                }
                Page::Paged { items, page_count, filtered_count } => {
                    found.extend(items);
                    if page == MOST_PAGES && page_count > page {
                        let left_out = filtered_count.saturating_sub(found.len());
                        return Ok(Listed { found, left_out });
                    }
                    if page >= page_count {
                        break;
                    }
                }
            }
        }
        Ok(Listed { found, left_out: 0 })
    }

    /// `None` if the API works but the path names something that does not exist.
    async fn get<T: DeserializeOwned + Send + 'static>(&self, path: String) -> Outcome<Option<T>> {
        let http = self.http.clone();
        tokio::task::spawn_blocking(move || http.get(&path))
            .await
            .unwrap_or_else(|_| Err(Failure::failed("the question to the management API was interrupted")))
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// Splits the credentials off an address. People paste what their browser shows: `/#/queues`, `/api`.
fn split(url: &BrokerUrl) -> (String, Option<(String, String)>) {
    let (scheme, rest) = (url.scheme(), url.path());
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (Some(credentials), rest),
        None => (None, rest),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let rest = rest.strip_suffix("/api").unwrap_or(rest);
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let credentials = credentials.map(|credentials| {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        (decoded(user), decoded(password))
    });
    (format!("{scheme}://{rest}"), credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(broker: &str, management: Option<&str>) -> Management {
        let config = Config {
            broker_url: broker.parse().expect("a URL"),
            management_url: management.map(|url| url.parse().expect("a URL")),
            ..Config::default()
        };
        Management::of(&config).expect("an address")
    }

    #[test]
    fn the_api_is_found_by_the_broker_s_address() {
        for (broker, management, base, user, vhost) in [
            ("amqp://h", None, "http://h:15672", "guest", "%2F"),
            ("amqp://u:p@h:5673/a%2Fb", None, "http://h:15672", "u", "a%2Fb"),
            ("amqps://u:p@h/v%20w", None, "https://h:15671", "u", "v%20w"),
            ("amqp://[::1]", None, "http://[::1]:15672", "guest", "%2F"),
            ("amqp://u:p@h/é", Some("http://x:1/mq/api/"), "http://x:1/mq", "u", "%C3%A9"),
            ("amqp://u:p@h", Some("https://o%40p:q%3A@x/#/queues"), "https://x", "o@p", "%2F"),
        ] {
            let api = of(broker, management);
            assert_eq!(
                (api.http.base(), api.http.user(), api.vhost.as_str()),
                (base, user, vhost),
                "{broker}"
            );
        }
    }
}
