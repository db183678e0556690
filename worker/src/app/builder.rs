//! Builds an application whose settings the program changes in code.

use std::sync::Arc;

use super::config::value;
use super::{App, Config, GLOBAL, Wraps};
use crate::backend::ResultBackend;
use crate::broker::Broker;
use crate::connection::BrokerUrl;
use crate::error::{Error, Result};
use crate::middleware::{Chain, Erased, Middleware, erase};
use crate::routing::{Exchange, Queue, QueueKind};

/// Builds an [`App`].
#[derive(Debug, Default)]
pub struct AppBuilder {
    config: Option<Config>,
    wraps: Wraps,
    middleware: Vec<Arc<dyn Erased>>,
}

impl AppBuilder {
    /// Starts from these settings instead of those from the environment and the file.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// The broker's address.
    ///
    /// # Errors
    /// An invalid URL, or a mistake in the environment or the file.
    pub fn broker(self, url: &str) -> Result<Self> {
        let url = read(url, value::broker)?;
        self.set(|config| config.broker_url = url)
    }

    /// The result backend's address.
    ///
    /// # Errors
    /// An invalid URL, or a mistake in the environment or the file.
    pub fn result_backend(self, url: &str) -> Result<Self> {
        let url = read(url, value::result_backend)?;
        self.set(|config| config.result_backend = Some(url))
    }

    /// The kind of queue to create on RabbitMQ.
    ///
    /// # Errors
    /// A mistake in the environment or the file.
    pub fn queue_kind(self, kind: QueueKind) -> Result<Self> {
        self.set(|config| config.queue_kind = kind)
    }

    /// Sets how a queue is declared: not at all with [`Queue::external`], with exactly these arguments with
    /// [`Queue::exact`], or together with its dead-letter queue with [`Queue::new`]. This replaces the queue's
    /// configuration.
    ///
    /// # Errors
    /// A mistake in the environment or the file.
    pub fn queue(self, queue: impl Into<Queue>) -> Result<Self> {
        let queue = queue.into();
        self.set(|config| {
            config.topology.queues.retain(|known| known.name != queue.name);
            config.topology.queues.push(queue);
        })
    }

    /// Sets how an exchange is declared; [`Exchange::external`] is not declared at all. This replaces the exchange's
    /// configuration.
    ///
    /// # Errors
    /// A mistake in the environment or the file.
    pub fn exchange(self, exchange: Exchange) -> Result<Self> {
        self.set(|config| {
            config.topology.exchanges.retain(|known| known.name != exchange.name);
            config.topology.exchanges.push(exchange);
        })
    }

    /// Changes any setting.
    ///
    /// # Errors
    /// A mistake in the environment or the file.
    pub fn set(mut self, change: impl FnOnce(&mut Config)) -> Result<Self> {
        let mut config = match self.config.take() {
            Some(config) => config,
            None => Config::load()?,
        };
        change(&mut config);
        Ok(Self { config: Some(config), ..self })
    }

    /// Adds a [`Middleware`], inside the ones that were added before.
    ///
    /// A library of tasks registers its middleware with [`middleware!`](crate::middleware!) instead, since the installed
    /// `mq-worker` builds the application by itself.
    #[must_use]
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(erase(middleware));
        self
    }

    /// Wraps the real broker in another one, so that a test can break its guarantees on purpose.
    #[doc(hidden)]
    #[must_use]
    pub fn wrap_broker(mut self, wrap: fn(Arc<dyn Broker>) -> Arc<dyn Broker>) -> Self {
        self.wraps.broker = Some(wrap);
        self
    }

    /// Wraps the result backend in the same way.
    #[doc(hidden)]
    #[must_use]
    pub fn wrap_backend(mut self, wrap: fn(Arc<dyn ResultBackend>) -> Arc<dyn ResultBackend>) -> Self {
        self.wraps.backend = Some(wrap);
        self
    }

    /// Builds the application.
    ///
    /// # Errors
    /// A mistake in the configuration, or two tasks with the same name.
    pub fn build(self) -> Result<App> {
        let config = match self.config {
            Some(config) => config,
            None => Config::load()?,
        };
        App::assemble(config, self.wraps, Chain::collect(self.middleware))
    }

    /// Builds the application and makes it the [global](App::global) one, which `.delay()` uses.
    ///
    /// # Errors
    /// As for [`build`](Self::build), or if the process has a global application already.
    pub fn install(self) -> Result<App> {
        let app = self.build()?;
        GLOBAL.set(app.clone()).map_err(|_| {
            Error::config("this process has an application already: install it before the first `.delay()`")
        })?;
        Ok(app)
    }
}

fn read(text: &str, read: fn(&str) -> Result<BrokerUrl, value::Problem>) -> Result<BrokerUrl> {
    read(text).map_err(|problem| Error::config(format!("`{}`: {problem}", value::redacted_address(text))))
}
