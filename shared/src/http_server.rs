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
use http::{HeaderValue, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::Sleep,
};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use crate::lifecycle::Shutdown;

/// How long a client that was refused may go on sending.
const LINGER: Duration = Duration::from_secs(10);

/// Connections that may wait to be accepted, as far as the system allows.
const BACKLOG: u16 = 1024;

/// How long connections are still accepted when the server stops: those whose handshake is under way. Nothing
/// tells their number, and closing the listener resets them.
const LAST_HANDSHAKES: Duration = Duration::from_millis(250);

/// How long a client may still begin a request on an open connection when the server stops. It is answered
/// with `Connection: close`; a connection that is closed without that may be closed just when a request is on
/// its way.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

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

/// Binds a TCP listener on a port that nobody else has.
///
/// # Errors
///
/// A text that names the address and what is wrong with it.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    // The listener shares its port with those of `bind_beside`, and would not notice others that share theirs.
    let probed = TcpListener::bind(address).await;
    probed
        .and_then(|probe| probe.local_addr())
        .and_then(listen)
        .map_err(|error| {
            let remedy = "; another program, or another Nocturne, listens there";
            explain(address, &error, remedy)
        })
}

/// Binds a TCP listener, also where a listener of this user's from [`bind`] is: for a successor that starts
/// while its predecessor still serves.
///
/// On Linux the younger of the two gets all new connections from now on. What was queued at the older one
/// stays there, for [`serve`] to accept before it ends.
///
/// # Errors
///
/// As with [`bind`].
///
/// # Panics
///
/// Outside of a runtime.
pub fn bind_beside(address: SocketAddr) -> Result<TcpListener, String> {
    listen(address).map_err(|error| {
        let remedy = "; what listens there is no push gateway that this user started, or does not share its port";
        explain(address, &error, remedy)
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Connections that ended lately do not count.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG.into())?;
    prefer_the_younger(&listener);
    Ok(listener)
}

/// Has the system give new connections to the second of two listeners that share a port, instead of spreading
/// them among both. The second is that of the successor, until its predecessor is gone; then it is the first,
/// there is no second, and it gets them all.
///
/// <https://man7.org/linux/man-pages/man7/socket.7.html>, `SO_ATTACH_REUSEPORT_CBPF`.
#[cfg(target_os = "linux")]
fn prefer_the_younger(listener: &TcpListener) {
    use nix::{
        libc::{sock_filter, sock_fprog},
        sys::socket::{setsockopt, sockopt::AttachReusePortCbpf},
    };

    /// `BPF_RET` with `BPF_K`: the result is the constant, which is the index of a socket.
    const RETURN: u16 = 0x06;
    let mut instructions = [sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: 1,
    }];
    let program = sock_fprog {
        len: 1,
        filter: instructions.as_mut_ptr(),
    };
    if let Err(error) = setsockopt(listener, AttachReusePortCbpf, &program) {
        debug!(%error, "new connections are spread among servers that share a port");
    }
}

/// The system spreads them, or gives them to the last that was bound.
#[cfg(not(target_os = "linux"))]
fn prefer_the_younger(_: &TcpListener) {}

fn explain(address: SocketAddr, error: &io::Error, in_use: &str) -> String {
    let remedy = if error.kind() == io::ErrorKind::AddrInUse {
        in_use
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "; ports below 1024 need root or CAP_NET_BIND_SERVICE"
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        "; no interface of this machine has that address"
    } else {
        ""
    };
    format!("cannot listen on {address}: {error}{remedy}")
}

/// Serves `router` on `listener` until `shutdown` begins, then lets requests under way finish for as
/// long as `shutdown` allows. Connections that the system has accepted by then are served, too.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: Shutdown) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let connection = |stream, peer| {
        serve_connection(stream, Peer(peer), router.clone(), limits, shutdown.clone())
    };
    let mut leaving = pin!(async {
        shutdown.begun().await;
        tokio::select! {
            () = tokio::time::sleep(LAST_HANDSHAKES) => {}
            () = shutdown.expired() => {}
        }
    });
    loop {
        let accepting = async {
            // Semaphore never closes, so a slot always comes.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = leaving.as_mut() => break,
            accepted = accepting => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer);
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
    for (stream, peer) in queued(listener) {
        connections.spawn(connection(stream, peer));
    }
    let finishing = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = finishing => {}
        () = shutdown.expired() => debug!(open = connections.len(), "connections are cut off"),
    }
}

/// The connections that wait to be accepted: closing the listener would reset them.
fn queued(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut all = Vec::new();
    // The runtime may not know yet that there are some.
    let Ok(listener) = listener.into_std() else {
        return all;
    };
    for _ in 0..BACKLOG {
        match listener.accept() {
            Ok((stream, peer)) => {
                let stream = stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream));
                all.extend(stream.ok().map(|stream| (stream, peer)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // This one has gone away again.
            Err(_) => {}
        }
    }
    all
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
    let stopping = shutdown.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, refused) = (router.clone(), Arc::clone(&refused));
        let stopping = stopping.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let Ok(mut response) = router.oneshot(request).await;
            if response.headers().contains_key(header::CONNECTION) {
                refused.store(true, Ordering::Relaxed);
            } else if stopping.has_begun() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
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
    let leaving = async {
        shutdown.begun().await;
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = leaving => {
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
