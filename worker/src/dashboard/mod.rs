//! The management page: shows in a browser what is waiting, running and failed, and why.
//!
//! `mq-worker dashboard` serves it, and `mq-worker --dashboard ADDRESS:PORT` inside a worker. A program serves it with
//! [`Dashboard`]. Pages are rendered on the server from the latest snapshot of `watcher`; forms and the API perform the
//! same `actions::Action`.

mod act;
mod actions;
mod api;
mod assets;
mod call;
mod command;
mod connections;
mod diagnosis;
mod fields;
mod guard;
mod letters;
mod live;
pub(crate) mod login;
mod pages;
mod path;
mod privacy;
mod problem;
mod query;
mod replay;
mod routes;
mod schedules;
mod selection;
mod send;
mod snapshot;
mod state;
mod watcher;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::connections::LIMITS;
use self::login::access::Access;
pub use self::login::access::Login;
use self::login::session::Sessions;
use self::privacy::Privacy;
use self::state::State;
use self::watcher::Watcher;
use crate::app::App;
use crate::error::{Error, Result};
use crate::history::{self, History, Retention};
use crate::tracing::warn;

/// The default address of the page.
pub const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5555);

/// How long to wait before connecting to the broker again.
const AGAIN: Duration = Duration::from_secs(5);

/// The management page, bound to its address.
///
/// ```no_run
/// # async fn demo() -> mq_worker::Result<()> {
/// use mq_worker::App;
/// use mq_worker::dashboard::{DEFAULT_ADDRESS, Dashboard, Login};
///
/// let dashboard = Dashboard::bind(App::global()?, DEFAULT_ADDRESS, Login::Required).await?;
/// println!("open {}", dashboard.link());
/// dashboard.serve(async { _ = tokio::signal::ctrl_c().await }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Dashboard {
    listener: TcpListener,
    state: Arc<State>,
}

impl Dashboard {
    /// Binds the page to an address. With port 0 the system chooses one.
    ///
    /// # Errors
    /// Fails if the address is in use or does not belong to this machine, if others can reach it and there are no users
    /// who could [log in](Login), or if `[dashboard]` of the configuration has a mistake.
    pub async fn bind(app: App, listen: SocketAddr, login: Login) -> Result<Self> {
        let config = app.config().dashboard.clone();
        let access = Access::new(config.clone(), login, listen)?;
        let failed = |error: std::io::Error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    ": another program uses this port; choose another one with --listen"
                }
                std::io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
                std::io::ErrorKind::PermissionDenied => ": ports below 1024 need more rights",
                _ => "",
            };
            Error::config(format!("cannot serve the management page on {listen}{hint}")).with_source(error)
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let listen = listener.local_addr().map_err(failed)?;
        let settings = app.config();
        let retention = Retention { keep: settings.history_keep, max_rows: settings.history_max_rows };
        let history = History::open_with(&settings.history, retention).await?;
        let state = State {
            watcher: Watcher::new(&app),
            app,
            history,
            listen,
            access,
            sessions: Sessions::default(),
            privacy: Privacy::new(&config),
            stop: CancellationToken::new(),
        };
        Ok(Self { listener, state: Arc::new(state) })
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.state.listen
    }

    /// Returns the URL to open in a browser: the page or, if no users are configured, a one-time login link.
    pub fn link(&self) -> String {
        self.state.login_link().unwrap_or_else(|| self.state.address())
    }

    /// Serves the page until `stop` completes.
    ///
    /// # Errors
    /// None at present: an error on one connection ends only that connection.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let Self { listener, state } = self;
        let token = state.stop.clone();
        let watched = Arc::clone(&state);
        let _watching = AbortOnDropHandle::new(tokio::spawn(async move {
            watched.watcher.run(&watched.app, &watched.history, &watched.stop).await;
        }));
        let followed = Arc::clone(&state);
        let _following = AbortOnDropHandle::new(tokio::spawn(async move { follow(&followed).await }));
        let ending = token.clone();
        let _stopping = AbortOnDropHandle::new(tokio::spawn(async move {
            stop.await;
            ending.cancel();
        }));
        connections::serve(listener, routes::router(state), LIMITS, &token).await;
        Ok(())
    }
}

/// Fills the history while the page is served. Retries while the broker cannot be reached.
async fn follow(state: &State) {
    loop {
        let ended = match state.app.broker().await {
            Ok(broker) => history::follow(broker, &state.history).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            warn!(error = format!("{error:#}"), "the history of the management page is not being recorded");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl std::fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dashboard").field("address", &self.state.listen).finish_non_exhaustive()
    }
}
