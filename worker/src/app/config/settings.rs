//! The table of settings: each with its key in the file, its variable, and how it is set.

use super::{Config, value};
use crate::app::config::value::Problem;

/// One setting.
pub(super) struct Setting {
    /// The section of the file; empty is the top.
    pub(super) section: &'static str,
    /// The key: the name of the field.
    pub(super) key: &'static str,
    /// The environment variable.
    pub(super) variable: &'static str,
    /// True for an address, which is not shown with its password.
    pub(super) is_address: bool,
    /// Reads the text and sets the field.
    pub(super) set: fn(&mut Config, &str) -> Result<(), Problem>,
}

/// The sections that are tables of settings.
pub(super) const SECTIONS: [&str; 2] = ["worker", "tls"];

/// The parts of the file that have a shape of their own, with their variables.
pub(super) const STRUCTURES: [(&str, &str); 2] = [("routes", "MQ_ROUTES"), ("topology", "MQ_TOPOLOGY")];

macro_rules! setting {
    ($section:literal, $key:literal, $variable:literal, |$config:ident, $text:ident| $set:expr) => {
        Setting {
            section: $section,
            key: $key,
            variable: $variable,
            is_address: matches!($key.as_bytes(), b"broker_url" | b"result_backend"),
            set: |$config, $text| {
                $set;
                Ok(())
            },
        }
    };
}

/// Every setting that is one value.
#[rustfmt::skip]
pub(super) const SETTINGS: &[Setting] = &[
    setting!("", "broker_url", "MQ_BROKER_URL", |c, t| c.broker_url = value::broker(t)?),
    setting!("", "result_backend", "MQ_RESULT_BACKEND", |c, t| c.result_backend = Some(value::result_backend(t)?)),
    setting!("", "default_queue", "MQ_DEFAULT_QUEUE", |c, t| c.default_queue = value::queue(t)?),
    setting!("", "topic_exchange", "MQ_TOPIC_EXCHANGE", |c, t| c.topic_exchange = value::exchange(t)?),
    setting!("", "queue_kind", "MQ_QUEUE_KIND", |c, t| c.queue_kind = value::queue_kind(t)?),
    setting!("", "publish_timeout", "MQ_PUBLISH_TIMEOUT", |c, t| c.publish_timeout = value::positive_duration(t)?),
    setting!("", "max_message_size", "MQ_MAX_MESSAGE_SIZE", |c, t| c.max_message_size = value::size(t)?),
    setting!("", "result_expires", "MQ_RESULT_EXPIRES", |c, t| c.result_expires = value::positive_duration(t)?),
    setting!("worker", "queues", "MQ_QUEUES", |c, t| c.worker.queues = value::queues(t)?),
    setting!("worker", "concurrency", "MQ_CONCURRENCY", |c, t| c.worker.concurrency = value::concurrency(t)?),
    setting!("worker", "prefetch", "MQ_PREFETCH", |c, t| c.worker.prefetch = Some(value::prefetch(t)?)),
    setting!("worker", "grace", "MQ_GRACE", |c, t| c.worker.grace = value::duration(t)?),
    setting!("worker", "hostname", "MQ_HOSTNAME", |c, t| c.worker.hostname = Some(value::hostname(t)?)),
    setting!("worker", "max_crashes", "MQ_MAX_CRASHES", |c, t| c.worker.max_crashes = value::count(t)?),
    setting!("worker", "control", "MQ_CONTROL", |c, t| c.worker.control = value::switch(t)?),
    setting!("worker", "health", "MQ_HEALTH", |c, t| c.worker.health = Some(value::address(t)?)),
    setting!("worker", "health_stall_limit", "MQ_HEALTH_STALL_LIMIT", |c, t| c.worker.health_stall_limit = value::duration(t)?),
    setting!("worker", "health_connection_limit", "MQ_HEALTH_CONNECTION_LIMIT", |c, t| c.worker.health_connection_limit = value::duration(t)?),
    setting!("tls", "ca_file", "MQ_TLS_CA_FILE", |c, t| c.tls.ca_file = Some(value::path(t)?)),
    setting!("tls", "cert_file", "MQ_TLS_CERT_FILE", |c, t| c.tls.cert_file = Some(value::path(t)?)),
    setting!("tls", "key_file", "MQ_TLS_KEY_FILE", |c, t| c.tls.key_file = Some(value::path(t)?)),
];

impl Setting {
    /// A value that was refused, for an error.
    pub(super) fn shown(&self, text: &str) -> String {
        if self.is_address { value::shown_address(text) } else { value::shown(text) }
    }
}

/// The settings of one section.
pub(super) fn of_section(section: &str) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.section == section)
}
