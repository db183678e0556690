//! Opens, maintains and restores the connections that brokers and result backends share.

#[cfg(feature = "amqp")]
pub(crate) mod amqp;
pub(crate) mod background;
mod options;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
pub(crate) mod url;
mod url_options;

pub use options::{ConnectOptions, TlsOptions};
pub use url::BrokerUrl;
