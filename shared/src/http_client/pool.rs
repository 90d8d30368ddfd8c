//! The connections to one origin.
//!
//! HTTP/2: a request takes the connection with the fewest streams under way, as long as the server's
//! stream limit leaves room; when none has room one more connection is opened, one at a time, up to
//! the configured number; then requests wait. HTTP/1.1: one request a connection, kept for the next.
//!
//! Connections are made in tasks of their own, so that a request that is given up does not throw away
//! the handshake that others wait for.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Notify;

use super::{
    Error, ErrorKind, Response,
    connect::{Connected, Connector, Target, Version},
};

/// Between two pings on an HTTP/2 connection: often enough that NAT boxes and proxies do not forget it,
/// seldom enough that no provider minds (gRPC servers allow one in five minutes without traffic).
const PING_INTERVAL: Duration = Duration::from_mins(5);
/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// An idle HTTP/1.1 connection older than this is not used again: the server may be closing it.
const HTTP1_IDLE: Duration = Duration::from_secs(30);
/// A request that was given up sooner than this says nothing of its connection: how much of its time was
/// left is its sender's doing.
const FAIR_WAIT: Duration = Duration::from_secs(1);
/// How long the next piece of a successful answer's body is waited for: the answer itself is known.
const BODY_PATIENCE: Duration = Duration::from_secs(2);
/// Connections to a stranger's endpoint are closed after so long without a request.
const STRANGERS_IDLE: Duration = Duration::from_mins(1);
/// How often one request is moved to another connection because it could not be written.
const MOVES: usize = 3;

/// The connections to one origin, and who waits for one.
pub(super) struct Pool {
    connector: Arc<Connector>,
    target: Target,
    max_connections: usize,
    max_response_body: usize,
    state: Mutex<State>,
    /// Rung when a stream or connection comes free, or an attempt to connect ends.
    changed: Notify,
}

#[derive(Default)]
struct State {
    http2: Vec<Arc<Http2>>,
    http1_idle: Vec<(http1::SendRequest<Full<Bytes>>, tokio::time::Instant)>,
    http1_open: usize,
    connecting: usize,
    waiting: usize,
    /// What the server was last seen to speak.
    version: Option<Version>,
    /// When a connection was last asked for.
    last_use: Option<tokio::time::Instant>,
    /// How many attempts to connect have failed, and how the last one did.
    failures: u64,
    last_failure: Option<Error>,
}

struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    /// Streams under way.
    streams: AtomicUsize,
    /// The server's limit on them, kept up by the connection's own task.
    max_streams: Arc<AtomicUsize>,
    /// Answers seen, so that a request that timed out can tell a dead connection from a slow server.
    answers: AtomicUsize,
    /// No new requests: the connection is believed dead.
    retired: AtomicBool,
}

/// The right to send one request on a connection.
enum Lease {
    Http2(Arc<Http2>),
    Http1(Http1Lease),
}

struct Http1Lease {
    sender: Option<http1::SendRequest<Full<Bytes>>>,
    pool: Arc<Pool>,
}

/// Gives a stream back when the request is over, however it ends.
struct Stream {
    connection: Arc<Http2>,
    pool: Arc<Pool>,
    /// The count of answers when the request was sent, and when that was; taken away when it is answered.
    unanswered: Option<(usize, tokio::time::Instant)>,
}

impl Pool {
    pub(super) fn new(
        connector: Arc<Connector>,
        target: Target,
        max_connections: usize,
        max_response_body: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            connector,
            target,
            max_connections,
            max_response_body,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    pub(super) fn anonymous(&self) -> bool {
        self.connector.anonymous()
    }

    /// What a request that ran out of time is told: whether it ever got a connection.
    pub(super) fn timed_out(&self) -> Error {
        let state = self.state();
        if state.http2.is_empty() && state.http1_open == 0 {
            return state.last_failure.clone().unwrap_or_else(|| {
                Error::new(ErrorKind::Connect, "no connection in time").unprocessed()
            });
        }
        Error::new(ErrorKind::Timeout, "no answer in time")
    }

    pub(super) async fn send(
        self: &Arc<Self>,
        request: http::Request<Bytes>,
    ) -> Result<Response, Error> {
        let mut request = request.map(Full::new);
        let mut moves = 0;
        loop {
            let attempt = match self.acquire().await? {
                Lease::Http2(connection) => self.send_http2(connection, request).await,
                // Boxed: it is rare, and its size would be every request's.
                Lease::Http1(lease) => Box::pin(self.send_http1(lease, request)).await,
            };
            match attempt {
                Ok(response) => return Ok(response),
                Err((_, Some(unsent))) if moves < MOVES => {
                    moves += 1;
                    request = *unsent;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    async fn send_http2(
        self: &Arc<Self>,
        connection: Arc<Http2>,
        request: http::Request<Full<Bytes>>,
    ) -> Attempt {
        let mut stream = Stream {
            unanswered: Some((
                connection.answers.load(Ordering::Relaxed),
                tokio::time::Instant::now(),
            )),
            connection: Arc::clone(&connection),
            pool: Arc::clone(self),
        };
        let mut sender = connection.sender.clone();
        let response = sender.try_send_request(request).await.map_err(|error| {
            stream.unanswered = None;
            unsent(error)
        })?;
        stream.unanswered = None;
        connection.answers.fetch_add(1, Ordering::Relaxed);
        let response = self.read(response).await;
        drop(stream);
        response.map_err(|error| (error, None))
    }

    async fn send_http1(
        self: &Arc<Self>,
        mut lease: Http1Lease,
        mut request: http::Request<Full<Bytes>>,
    ) -> Attempt {
        let Some(mut sender) = lease.sender.take() else {
            return Err((
                Error::new(ErrorKind::Closed, "the connection is gone"),
                None,
            ));
        };
        let uri = std::mem::take(request.uri_mut());
        if let Some(authority) = uri.authority()
            && let Ok(host) = http::HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(http::header::HOST, host);
        }
        *request.uri_mut() = uri
            .path_and_query()
            .map_or_else(http::Uri::default, |path| http::Uri::from(path.clone()));
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                let (error, unsent) = unsent(error);
                // The next connection is asked with the whole URL again: it may speak HTTP/2.
                let unsent = unsent.map(|mut request| {
                    *request.uri_mut() = uri;
                    request
                });
                return Err((error, unsent));
            }
        };
        let response = self.read(response).await.map_err(|error| (error, None))?;
        // hyper closes a connection whose answer was not read to its end; ready() tells.
        if sender.ready().await.is_ok() {
            lease.sender = Some(sender);
        }
        Ok(response)
    }

    /// Reads an answer, its body up to the limit.
    async fn read(&self, response: http::Response<Incoming>) -> Result<Response, Error> {
        let (parts, mut body) = response.into_parts();
        let mut read = Bytes::new();
        let patience = if parts.status.is_success() {
            BODY_PATIENCE
        } else {
            Duration::MAX
        };
        while !body.is_end_stream() && read.len() < self.max_response_body {
            let Ok(frame) = tokio::time::timeout(patience, body.frame()).await else {
                break;
            };
            match frame {
                None => break,
                // The server did what it was asked to: asking again would do it twice.
                Some(Err(_)) if parts.status.is_success() => break,
                Some(Err(error)) => return Err(failed(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        if read.is_empty() {
                            read = data;
                        } else {
                            let mut joined = Vec::with_capacity(read.len() + data.len());
                            joined.extend_from_slice(&read);
                            joined.extend_from_slice(&data);
                            read = joined.into();
                        }
                    }
                }
            }
        }
        read.truncate(self.max_response_body);
        Ok(Response {
            status: parts.status,
            headers: parts.headers,
            body: read,
        })
    }

    /// Waits for the right to send one request.
    async fn acquire(self: &Arc<Self>) -> Result<Lease, Error> {
        let mut seen_failures = None;
        let mut waiting: Option<Waiting> = None;
        loop {
            let changed = self.changed.notified();
            let mut changed = pin!(changed);
            {
                let mut state = self.state();
                if let Some(lease) = state.take(self) {
                    return Ok(lease);
                }
                let failures = *seen_failures.get_or_insert(state.failures);
                if state.failures > failures
                    && let Some(error) = &state.last_failure
                {
                    return Err(error.clone());
                }
                if waiting.is_none() {
                    state.waiting += 1;
                    waiting = Some(Waiting(self));
                }
                if state.wants_connection(self.max_connections) {
                    state.connecting += 1;
                    tokio::spawn(Connecting(Arc::clone(self)).run());
                }
                changed.as_mut().enable();
            }
            changed.await;
        }
    }

    /// Makes one connection.
    async fn connect(self: &Arc<Self>) -> Result<(), Error> {
        match self.connector.connect(&self.target).await {
            Ok(Connected {
                io,
                version: Version::Http2,
            }) => self.start_http2(io).await,
            Ok(Connected {
                io,
                version: Version::Http1,
            }) => self.start_http1(io).await,
            Err(error) => Err(error),
        }
    }

    /// Closes what was idle for too long.
    pub(super) fn close_idle(&self) {
        let mut state = self.state();
        state
            .http1_idle
            .retain(|(_, since)| since.elapsed() < HTTP1_IDLE);
        if self.anonymous()
            && state
                .last_use
                .is_none_or(|last| last.elapsed() >= STRANGERS_IDLE)
        {
            // What is under way keeps its connection to the end.
            state.http2.clear();
        }
    }

    async fn start_http2(self: &Arc<Self>, io: Box<dyn super::connect::Io>) -> Result<(), Error> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(!self.anonymous())
            .max_header_list_size(16 * 1024)
            // Answers are small, and what a server may send ahead is memory that it can take.
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024)
            // Until the server has said its limit: one, as Apple wants it, instead of a guess that it may refuse.
            .initial_max_send_streams(1)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| failed(&error).unprocessed())?;
        let max_streams = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let connection_state = Arc::new(Http2 {
            sender,
            streams: AtomicUsize::new(0),
            max_streams: Arc::clone(&max_streams),
            answers: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
        });
        {
            let mut state = self.state();
            state.version = Some(Version::Http2);
            state.http2.push(connection_state);
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let _ = poll_fn(|context| {
                let polled = connection.as_mut().poll(context);
                let limit = connection.current_max_send_streams();
                if max_streams.swap(limit, Ordering::Relaxed) < limit
                    && let Some(pool) = pool.upgrade()
                {
                    pool.changed.notify_waiters();
                }
                polled
            })
            .await;
            if let Some(pool) = pool.upgrade() {
                pool.state().http2.retain(|connection| connection.is_open());
                pool.changed.notify_waiters();
            }
        });
        Ok(())
    }

    async fn start_http1(self: &Arc<Self>, io: Box<dyn super::connect::Io>) -> Result<(), Error> {
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(64)
            .max_buf_size(64 * 1024)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| failed(&error).unprocessed())?;
        {
            let mut state = self.state();
            state.version = Some(Version::Http1);
            state.http1_open += 1;
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            let _ = connection.await;
            if let Some(pool) = pool.upgrade() {
                let mut state = pool.state();
                state.http1_open -= 1;
                state.http1_idle.retain(|(sender, _)| !sender.is_closed());
                drop(state);
                pool.changed.notify_waiters();
            }
        });
        // Not ready before its task has run: whoever took it now would take it for a dead one.
        sender
            .ready()
            .await
            .map_err(|error| failed(&error).unprocessed())?;
        self.state()
            .http1_idle
            .push((sender, tokio::time::Instant::now()));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Attempt = Result<Response, (Error, Option<Box<http::Request<Full<Bytes>>>>)>;

impl State {
    /// A connection with room, if there is one.
    fn take(&mut self, pool: &Arc<Pool>) -> Option<Lease> {
        self.last_use = Some(tokio::time::Instant::now());
        self.http2.retain(|connection| connection.is_open());
        let free = self
            .http2
            .iter()
            .map(|connection| (connection.streams.load(Ordering::Relaxed), connection))
            .filter(|(streams, connection)| {
                *streams < connection.max_streams.load(Ordering::Relaxed).max(1)
            })
            .min_by_key(|(streams, _)| *streams);
        if let Some((_, connection)) = free {
            connection.streams.fetch_add(1, Ordering::Relaxed);
            return Some(Lease::Http2(Arc::clone(connection)));
        }
        while let Some((sender, since)) = self.http1_idle.pop() {
            if sender.is_ready() && since.elapsed() < HTTP1_IDLE {
                return Some(Lease::Http1(Http1Lease {
                    sender: Some(sender),
                    pool: Arc::clone(pool),
                }));
            }
        }
        None
    }

    /// Whether one more connection should be made for those who wait.
    fn wants_connection(&self, max_connections: usize) -> bool {
        let open = self.http2.len() + self.http1_open + self.connecting;
        if open >= max_connections {
            return false;
        }
        match self.version {
            // One at a time: it may bring room for hundreds, once the server has said its limit.
            None | Some(Version::Http2) => {
                self.connecting == 0
                    && !self.http2.iter().any(|connection| connection.is_settling())
            }
            Some(Version::Http1) => self.connecting < self.waiting,
        }
    }
}

impl Http2 {
    /// Whether the server's limit may not be known yet. Apple's is one until the first push was accepted.
    fn is_settling(&self) -> bool {
        self.max_streams.load(Ordering::Relaxed) <= 1 && self.answers.load(Ordering::Relaxed) == 0
    }

    fn is_open(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && !self.sender.is_closed()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
        // Given up without an answer while nobody else got one either: the connection is dead or as good
        // as dead. What is under way on it may still come; new requests take another.
        if let Some((answers, since)) = self.unanswered
            && answers == self.connection.answers.load(Ordering::Relaxed)
            && since.elapsed() >= FAIR_WAIT
        {
            self.connection.retired.store(true, Ordering::Relaxed);
        }
        // The lock is what makes this certain to be seen by one who is about to wait.
        if self.pool.state().waiting > 0 {
            self.pool.changed.notify_one();
        }
    }
}

impl Drop for Http1Lease {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        if let Some(sender) = self.sender.take() {
            state.http1_idle.push((sender, tokio::time::Instant::now()));
        }
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.pool.changed.notify_one();
        }
    }
}

/// One attempt to connect, counted until it is over, however it ends.
struct Connecting(Arc<Pool>);

impl Connecting {
    /// Makes one connection and offers it to whoever waits.
    async fn run(self) {
        if let Err(error) = self.0.connect().await {
            let mut state = self.0.state();
            state.failures += 1;
            state.last_failure = Some(error);
        }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.state().connecting -= 1;
        self.0.changed.notify_waiters();
    }
}

/// Counts one who waits, until it no longer does.
struct Waiting<'a>(&'a Pool);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

/// The error of a request that could not be sent, with the request when nothing of it was.
fn unsent(
    mut error: TrySendError<http::Request<Full<Bytes>>>,
) -> (Error, Option<Box<http::Request<Full<Bytes>>>>) {
    let message = error.take_message().map(Box::new);
    let mut failure = failed(error.error());
    failure.unprocessed |= message.is_some();
    (failure, message)
}

/// What a failure of hyper's means.
fn failed(error: &hyper::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return failed_http2(error);
        }
        source = cause.source();
    }
    if error.is_parse() || error.is_user() {
        Error::new(
            ErrorKind::Protocol,
            format!("the answer is not HTTP: {error}"),
        )
    } else {
        Error::new(ErrorKind::Closed, format!("the connection ended: {error}"))
    }
}

fn failed_http2(error: &h2::Error) -> Error {
    // RFC 9113 §6.8 and §8.7: streams above the last one of a GOAWAY, and refused ones, were not processed.
    let refused = error.is_remote()
        && ((error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
            || (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)));
    // The reason alone: h2's own text has what the server wrote into its GOAWAY.
    let reason = error.reason().map_or_else(
        || "an error of the connection".to_owned(),
        |reason| reason.to_string(),
    );
    let mut failure = if error.is_io() || error.is_go_away() || error.is_remote() {
        Error::new(ErrorKind::Closed, format!("the connection ended: {reason}"))
    } else {
        Error::new(
            ErrorKind::Protocol,
            format!("the answer is not HTTP/2: {reason}"),
        )
    };
    failure.unprocessed = refused;
    failure
}
