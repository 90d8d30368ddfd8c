//! Serving HTTP/1.1 to clients that cannot be trusted to be quick, honest or few.
//!
//! `axum::serve` sets neither a header timeout nor a connection limit, and waits without bound for the
//! last connection when it stops; this accept loop does all three.

use std::{
    convert::Infallible,
    future::Future,
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body};
use http::header;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::Sleep,
};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use crate::lifecycle::Shutdown;

/// How long a client that was refused may go on sending.
const LINGER: Duration = Duration::from_secs(10);

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. Further ones wait to be accepted.
    pub connections: usize,
    /// How long a connection may be without a whole request head: idle, or sending one slowly.
    pub head_timeout: Duration,
    /// How long a client may leave an answer unread.
    pub write_timeout: Duration,
}

/// The address of the client, among a request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head_timeout: Duration::from_mins(1),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// Binds a TCP listener.
///
/// # Errors
///
/// A text that names the address and what is wrong with it.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = if error.kind() == io::ErrorKind::AddrInUse {
            "; another program, or another Nocturne, listens there"
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        } else if error.kind() == io::ErrorKind::AddrNotAvailable {
            "; no interface of this machine has that address"
        } else {
            ""
        };
        format!("cannot listen on {address}: {error}{remedy}")
    })
}

/// Serves `router` on `listener` until `shutdown` begins, then lets requests under way finish for as
/// long as `shutdown` allows.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: Shutdown) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepting = async {
            // Semaphore never closes, so a slot always comes.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = shutdown.begun() => break,
            accepted = accepting => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let connection =
                    serve_connection(stream, Peer(peer), router.clone(), limits, shutdown.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    connection.await;
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: what is open goes on, and some of it will close.
                warn!(%error, "cannot accept a connection; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let finishing = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = finishing => {}
        () = shutdown.expired() => debug!(open = connections.len(), "connections are cut off"),
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
) {
    let _ = stream.set_nodelay(true);
    let refused = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Unread {
        stream,
        patience: limits.write_timeout,
        stalled: None,
        refused: Arc::clone(&refused),
        lingering: None,
    });
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, refused) = (router.clone(), Arc::clone(&refused));
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let Ok(response) = router.oneshot(request).await;
            if response.headers().contains_key(header::CONNECTION) {
                refused.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_headers(64)
            .max_buf_size(32 * 1024)
            .half_close(false)
            .serve_connection(io, service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(reason = %describe(&error), "a connection ended early");
    }
}

/// hyper's error without what the client sent.
fn describe(error: &hyper::Error) -> &'static str {
    if error.is_timeout() {
        "timeout"
    } else if error.is_parse() {
        "not HTTP"
    } else if error.is_incomplete_message() {
        "closed in the middle of a request"
    } else {
        "closed"
    }
}

/// A stream that fails once the client has left an answer unread for too long.
struct Unread {
    stream: TcpStream,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether a request was answered before it was whole, so that the client may be sending still.
    refused: Arc<AtomicBool>,
    /// Since it was refused: until when it is listened to.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Unread {
    fn watch<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Unread {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Unread {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.watch(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.watch(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// A connection that is closed while the client still sends is reset, and what it has not read by then
    /// is lost, the answer above all. So the rest of a request that was refused is thrown away first.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unread = &mut *self;
        if unread.lingering.is_none() {
            ready!(Pin::new(&mut unread.stream).poll_shutdown(context))?;
            if !unread.refused.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let lingering = unread
            .lingering
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut thrown_away = [MaybeUninit::uninit(); 16 * 1024];
        while lingering.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::uninit(&mut thrown_away);
            ready!(Pin::new(&mut unread.stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
