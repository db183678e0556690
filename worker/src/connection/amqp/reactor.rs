//! Tokio with a [`FrameFilter`] in every connection: the only way to put something between `lapin` and its socket, TLS
//! included.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::AsyncTcpStream;
use tokio_util::sync::CancellationToken;

use super::address::FRAME_MAX;
use super::frame_filter::FrameFilter;

/// A Tokio connection, with or without TLS.
pub(super) type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// The runtime for `lapin`.
pub(super) type Runtime = async_rs::Runtime<RuntimeParts<Tokio, Filtering>>;

/// Tokio's timers and sockets.
#[derive(Clone, Debug)]
pub(super) struct Filtering(Tokio);

/// Returns a runtime for `lapin` that runs on the caller's.
pub(super) fn runtime() -> Runtime {
    Runtime::new(RuntimeParts::new(Tokio::current(), Filtering(Tokio::current())))
}

impl Reactor for Filtering {
    type TcpStream = FrameFilter<Socket>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        // Only for sockets opened by the caller; there are none.
        Err::<FrameFilter<Socket>, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        let nobody_waits = CancellationToken::new().drop_guard();
        async move { Ok(FrameFilter::new(AsyncTcpStream::Plain(connecting.await?), FRAME_MAX, nobody_waits)) }
    }
}
