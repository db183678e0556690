//! What all requests share.

use tokio_util::sync::CancellationToken;

use super::login::access::Access;
use super::login::session::Sessions;
use super::privacy::Privacy;
use super::watcher::Watcher;
use crate::admin::failure::{Failure, Outcome, UNAVAILABLE};
use crate::app::App;
use crate::history::History;

/// What all requests share.
pub(crate) struct State {
    pub(crate) app: App,
    /// The address that the page is served on.
    pub(crate) listen: std::net::SocketAddr,
    pub(crate) access: Access,
    pub(crate) sessions: Sessions,
    pub(crate) watcher: Watcher,
    pub(crate) history: History,
    pub(crate) privacy: Privacy,
    /// Ends what would go on forever.
    pub(crate) stop: CancellationToken,
}

impl State {
    /// Fails at once while the broker is away, so that nobody waits for it in vain.
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

    /// Asks the broker, unless it is away.
    pub(crate) async fn asking<T>(&self, question: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        self.reachable()?;
        question.await
    }

    /// The link that lets the next one in, where there are no users.
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
