//! The state shared by all requests.

use tokio_util::sync::CancellationToken;

use super::login::access::Access;
use super::login::session::Sessions;
use super::privacy::Privacy;
use super::watcher::Watcher;
use crate::admin::failure::{Failure, Outcome, UNAVAILABLE};
use crate::app::App;
use crate::history::History;

/// The state shared by all requests.
pub(crate) struct State {
    pub(crate) app: App,
    /// The address that the page is served on.
    pub(crate) listen: std::net::SocketAddr,
    pub(crate) access: Access,
    pub(crate) sessions: Sessions,
    pub(crate) watcher: Watcher,
    pub(crate) history: History,
    pub(crate) privacy: Privacy,
    /// Cancelled on shutdown: stops the server, event streams, the watcher and running actions.
    pub(crate) stop: CancellationToken,
}

impl State {
    /// Fails at once while the broker is unreachable, so that no request waits for it in vain.
    pub(crate) fn reachable(&self) -> Outcome {
        let snapshot = self.watcher.latest();
        let broker = &snapshot.broker;
        match (&broker.error, broker.away_since) {
            (Some(error), Some(_)) => {
                Err(Failure::new(UNAVAILABLE, format!("{} cannot be reached: {error}", broker.name)))
            }
            _ => Ok(()),
        }
    }

    /// Runs a request to the broker; fails at once while the broker is unreachable.
    pub(crate) async fn asking<T>(&self, question: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        self.reachable()?;
        question.await
    }

    /// The one-time login link, if no users are configured.
    pub(crate) fn login_link(&self) -> Option<String> {
        self.access.link().map(|key| format!("{}/login?key={key}", self.address()))
    }

    /// The address of the page.
    pub(crate) fn address(&self) -> String {
        match self.access.public_url() {
            Some(url) => url.to_owned(),
            None => format!("http://{}", self.listen),
        }
    }
}
