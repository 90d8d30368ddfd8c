//! What all stand-ins have in common: TLS on a loopback port, a record of what came, answers on
//! command, and outages.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    authority::topic_of,
    reply::{Reply, Then},
    support::{lock, now},
};

/// More than any of these servers takes.
const MOST_BODY: usize = 1024 * 1024;
/// How many streams a connection may have until told otherwise; Apple has been seen to allow 1000.
const STREAMS: u32 = 1000;

/// A running stand-in: its address, its record and its switches.
///
/// Dropping it ends its tasks and closes its connections.
pub struct Server {
    shared: Arc<Shared>,
    running: Mutex<Running>,
}

/// A push as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When its body was complete.
    pub at: Instant,
    /// The request's method.
    pub method: Method,
    /// The request's path, with its query if it has one.
    pub path: String,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The request's body.
    pub body: Bytes,
    /// Whom it is for: an APNs device token, an FCM target or a push endpoint's URL.
    pub device: String,
    /// What the device itself reads, where this server holds the device's keys for it.
    pub decrypted: Option<Vec<u8>>,
    /// What is wrong with the request by the provider's rules; none: all is in order.
    pub complaint: Option<String>,
    /// Which of this server's connections it came on, counted from 1.
    pub connection: u64,
}

/// How a stand-in's connections were used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// TLS handshakes completed since the start.
    pub opened: usize,
    /// Connections open now.
    pub open: usize,
    /// The most requests that were under way at once on one connection.
    pub most_streams: usize,
}

/// What makes a server Apple's, Google's or a browser's: its rules.
pub(crate) trait Rules: Send + Sync + 'static {
    /// Judges one request.
    fn judge(&self, request: &Arrived) -> Verdict;
}

/// A request with all of its body.
pub(crate) struct Arrived {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The topic of the client's certificate, if it showed one.
    pub(crate) client_topic: Option<Arc<str>>,
    /// Whether only what the answer depends on needs to be looked at.
    pub(crate) quiet: bool,
}

/// What the rules say.
pub(crate) struct Verdict {
    /// The answer, unless a script has another.
    pub(crate) reply: Reply,
    /// What to write down; none for requests that are not pushes. They are not scripted.
    pub(crate) push: Option<Push>,
}

/// What the rules found in a push.
#[derive(Default)]
pub(crate) struct Push {
    pub(crate) device: String,
    pub(crate) decrypted: Option<Vec<u8>>,
    pub(crate) complaint: Option<String>,
    /// Whether `reply` is a refusal: then no script is asked.
    pub(crate) refused: bool,
}

type Script = Arc<dyn Fn(&Seen, usize) -> Option<Reply> + Send + Sync>;

#[derive(Default)]
struct Scripts {
    queue: VecDeque<Reply>,
    by_device: HashMap<String, VecDeque<Reply>>,
    script: Option<Script>,
}

struct Shared {
    address: SocketAddr,
    tls: TlsAcceptor,
    rules: Box<dyn Rules>,
    seen: Mutex<Vec<Seen>>,
    asides: Mutex<Vec<Seen>>,
    count: AtomicUsize,
    arrived: Notify,
    scripts: Mutex<Scripts>,
    scripted: AtomicBool,
    delay_micros: AtomicU64,
    quiet: AtomicBool,
    held: watch::Sender<bool>,
    max_streams: AtomicU32,
    opened: AtomicUsize,
    open: AtomicUsize,
    most_streams: AtomicUsize,
    orders: watch::Sender<Orders>,
}

/// Orders to all connections: each is obeyed when its count goes up.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Orders {
    go_away: u64,
    close: u64,
}

enum Running {
    Accepting(JoinHandle<()>),
    /// Bound and not listening: connections are refused, and nobody else gets the port.
    Stopped(Option<TcpSocket>),
}

struct Connection {
    number: u64,
    client_topic: Option<Arc<str>>,
    streams: AtomicUsize,
    close: Notify,
    go_away: Notify,
}

impl Server {
    /// Listens on a free loopback port; `rules` are made for the address that it turns out to be.
    pub(crate) async fn start(
        tls: Arc<ServerConfig>,
        rules: impl FnOnce(SocketAddr) -> Box<dyn Rules>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            address,
            tls: TlsAcceptor::from(tls),
            rules: rules(address),
            seen: Mutex::default(),
            asides: Mutex::default(),
            count: AtomicUsize::new(0),
            arrived: Notify::new(),
            scripts: Mutex::default(),
            scripted: AtomicBool::new(false),
            delay_micros: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            held: watch::Sender::new(false),
            max_streams: AtomicU32::new(STREAMS),
            opened: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_streams: AtomicUsize::new(0),
            orders: watch::Sender::new(Orders::default()),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            shared,
            running: Mutex::new(Running::Accepting(accepting)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Its base URL, `https://127.0.0.1:…`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.shared.address)
    }

    /// All pushes so far, in the order of their arrival.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// All requests so far that are not pushes, such as those for an access token.
    #[must_use]
    pub fn asides(&self) -> Vec<Seen> {
        lock(&self.shared.asides).clone()
    }

    /// How many pushes there were so far; in quiet mode, too.
    #[must_use]
    pub fn seen_count(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Forgets the pushes so far.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
        self.shared.count.store(0, Ordering::Relaxed);
    }

    /// Waits until there were `count` pushes, at most for `patience`, and gives all there are.
    pub async fn wait_for(&self, count: usize, patience: Duration) -> Vec<Seen> {
        let enough = async {
            loop {
                let arrived = self.shared.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if self.seen_count() >= count {
                    return;
                }
                arrived.await;
            }
        };
        // too few by then: the caller sees how many
        let _ = tokio::time::timeout(patience, enough).await;
        self.seen()
    }

    /// Answers pushes as `script` says; none: as usual. It gets the push and how many there were
    /// before it. It is asked only about pushes that keep to the provider's rules.
    pub fn script(&self, script: impl Fn(&Seen, usize) -> Option<Reply> + Send + Sync + 'static) {
        lock(&self.shared.scripts).script = Some(Arc::new(script));
        self.shared.scripted.store(true, Ordering::Release);
    }

    /// Answers the next pushes so, one each; before [`Self::script`] is asked.
    pub fn queue(&self, replies: impl IntoIterator<Item = Reply>) {
        lock(&self.shared.scripts).queue.extend(replies);
        self.shared.scripted.store(true, Ordering::Release);
    }

    /// Answers the next pushes to one device so, one each; before [`Self::queue`].
    pub fn queue_for(&self, device: &str, replies: impl IntoIterator<Item = Reply>) {
        lock(&self.shared.scripts)
            .by_device
            .entry(device.to_owned())
            .or_default()
            .extend(replies);
        self.shared.scripted.store(true, Ordering::Release);
    }

    /// Answers as usual from now on.
    pub fn unscript(&self) {
        *lock(&self.shared.scripts) = Scripts::default();
        self.shared.scripted.store(false, Ordering::Release);
    }

    /// Holds every answer back for so long.
    pub fn set_delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.shared.delay_micros.store(micros, Ordering::Relaxed);
    }

    /// Holds every answer back until [`Self::release`].
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Sends the answers that were held back.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// For benchmarks: counts pushes without keeping them, and checks no more than it must.
    pub fn set_quiet(&self, quiet: bool) {
        self.shared.quiet.store(quiet, Ordering::Relaxed);
    }

    /// How many requests at once a connection may carry (HTTP/2 `MAX_CONCURRENT_STREAMS`); holds for
    /// connections opened from now on.
    pub fn set_max_concurrent_streams(&self, streams: u32) {
        self.shared.max_streams.store(streams, Ordering::Relaxed);
    }

    /// How the connections were used.
    #[must_use]
    pub fn connections(&self) -> Connections {
        Connections {
            opened: self.shared.opened.load(Ordering::Relaxed),
            open: self.shared.open.load(Ordering::Relaxed),
            most_streams: self.shared.most_streams.load(Ordering::Relaxed),
        }
    }

    /// Tells every open connection that it takes no further requests (HTTP/2: GOAWAY) and closes it
    /// after those under way.
    pub fn go_away(&self) {
        self.shared.orders.send_modify(|orders| orders.go_away += 1);
    }

    /// Closes every open connection, whatever is under way.
    pub fn drop_connections(&self) {
        self.shared.orders.send_modify(|orders| orders.close += 1);
    }

    /// An outage: closes all connections and refuses new ones. The port stays this server's.
    pub async fn stop(&self) {
        let running = std::mem::replace(&mut *lock(&self.running), Running::Stopped(None));
        let Running::Accepting(task) = running else {
            *lock(&self.running) = running;
            return;
        };
        task.abort();
        // ends by being aborted, which it reports as an error
        let _ = task.await;
        if let Ok(socket) = reserve(self.shared.address) {
            *lock(&self.running) = Running::Stopped(Some(socket));
        }
    }

    /// Ends the outage.
    pub fn start_again(&self) -> io::Result<()> {
        let mut running = lock(&self.running);
        let Running::Stopped(socket) = &mut *running else {
            return Ok(());
        };
        let socket = match socket.take() {
            Some(socket) => socket,
            None => reserve(self.shared.address)?,
        };
        let listener = socket.listen(1024)?;
        *running = Running::Accepting(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Running::Accepting(task) = &*lock(&self.running) {
            task.abort();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Server({})", self.shared.address)
    }
}

impl Seen {
    /// A header's value, if the header is there and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; null if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What the device reads, as JSON; null if there is none.
    #[must_use]
    pub fn decrypted_json(&self) -> Value {
        self.decrypted
            .as_deref()
            .and_then(|plain| serde_json::from_slice(plain).ok())
            .unwrap_or_default()
    }
}

impl Verdict {
    /// A push that keeps to the rules.
    pub(crate) fn accepted(reply: Reply, device: impl Into<String>) -> Self {
        Self {
            reply,
            push: Some(Push {
                device: device.into(),
                ..Push::default()
            }),
        }
    }

    /// A push that breaks a rule.
    pub(crate) fn refused(
        reply: Reply,
        device: impl Into<String>,
        complaint: impl Into<String>,
    ) -> Self {
        Self {
            reply,
            push: Some(Push {
                device: device.into(),
                decrypted: None,
                complaint: Some(complaint.into()),
                refused: true,
            }),
        }
    }

    /// Something else than a push.
    pub(crate) const fn aside(reply: Reply) -> Self {
        Self { reply, push: None }
    }
}

/// Binds the address again without listening on it.
fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Takes connections until it is aborted, which ends them, too: they live in its set of tasks.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts an open connection for as long as it lives, also when its task is aborted.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = shared.tls.accept(stream).await else {
        return;
    };
    let number = shared.opened.fetch_add(1, Ordering::Relaxed) + 1;
    shared.open.fetch_add(1, Ordering::Relaxed);
    let _open = Open(Arc::clone(&shared));
    let tls = stream.get_ref().1;
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let client_topic = tls
        .peer_certificates()
        .and_then(|chain| topic_of(chain.first()?))
        .map(Arc::from);
    let connection = Arc::new(Connection {
        number: u64::try_from(number).unwrap_or_default(),
        client_topic,
        streams: AtomicUsize::new(0),
        close: Notify::new(),
        go_away: Notify::new(),
    });
    let mut orders = shared.orders.subscribe();
    let service = {
        let (shared, connection) = (Arc::clone(&shared), Arc::clone(&connection));
        service_fn(move |request| {
            let (shared, connection) = (Arc::clone(&shared), Arc::clone(&connection));
            async move { Ok::<_, Infallible>(answer(request, &shared, &connection).await) }
        })
    };
    let stream = TokioIo::new(stream);
    /// Drives a connection until it ends or an order ends it.
    macro_rules! drive {
        ($http:expr) => {{
            let http = $http;
            tokio::pin!(http);
            let mut obeyed = *orders.borrow_and_update();
            loop {
                tokio::select! {
                    _ = http.as_mut() => return,
                    () = connection.close.notified() => return,
                    () = connection.go_away.notified() => http.as_mut().graceful_shutdown(),
                    Ok(()) = orders.changed() => {
                        let given = *orders.borrow_and_update();
                        if given.close != obeyed.close {
                            return;
                        }
                        if given.go_away != obeyed.go_away {
                            http.as_mut().graceful_shutdown();
                        }
                        obeyed = given;
                    }
                }
            }
        }};
    }
    if http2 {
        drive!(
            http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(shared.max_streams.load(Ordering::Relaxed))
                .serve_connection(stream, service)
        );
    } else {
        drive!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(stream, service)
        );
    }
}

/// Counts a request under way.
struct Stream<'a>(&'a Connection);

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: &Shared,
    connection: &Connection,
) -> Response<Full<Bytes>> {
    let streams = connection.streams.fetch_add(1, Ordering::Relaxed) + 1;
    shared.most_streams.fetch_max(streams, Ordering::Relaxed);
    let _stream = Stream(connection);
    let quiet = shared.quiet.load(Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MOST_BODY).collect().await else {
        return respond(Reply::status(StatusCode::PAYLOAD_TOO_LARGE.as_u16()));
    };
    let arrived = Arrived {
        method: head.method,
        path: head
            .uri
            .path_and_query()
            .map_or_else(|| head.uri.path().to_owned(), ToString::to_string),
        version: head.version,
        headers: head.headers,
        body: body.to_bytes(),
        client_topic: connection.client_topic.clone(),
        quiet,
    };
    let verdict = shared.rules.judge(&arrived);
    let mut reply = verdict.reply;
    if let Some(push) = verdict.push {
        let refused = push.refused;
        let seen = Seen {
            at: now(),
            method: arrived.method,
            path: arrived.path,
            version: arrived.version,
            headers: arrived.headers,
            body: arrived.body,
            device: push.device,
            decrypted: push.decrypted,
            complaint: push.complaint,
            connection: connection.number,
        };
        let before = if quiet {
            shared.count.fetch_add(1, Ordering::Relaxed)
        } else {
            // under the lock, so that numbers and order agree
            let mut all = lock(&shared.seen);
            all.push(seen.clone());
            shared.count.fetch_add(1, Ordering::Relaxed)
        };
        shared.arrived.notify_waiters();
        if !refused && let Some(scripted) = shared.scripted(&seen, before) {
            reply = scripted;
        }
    } else if !quiet {
        lock(&shared.asides).push(Seen {
            at: now(),
            method: arrived.method,
            path: arrived.path,
            version: arrived.version,
            headers: arrived.headers,
            body: arrived.body,
            device: String::new(),
            decrypted: None,
            complaint: None,
            connection: connection.number,
        });
    }
    let delay = Duration::from_micros(shared.delay_micros.load(Ordering::Relaxed)) + reply.delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if *shared.held.borrow() {
        // the sender lives as long as `shared`
        let _ = shared.held.subscribe().wait_for(|held| !held).await;
    }
    match reply.then {
        Then::Normal => {}
        Then::GoAway => connection.go_away.notify_one(),
        Then::DropConnection => {
            connection.close.notify_one();
            std::future::pending::<()>().await;
        }
        Then::HangForever => std::future::pending().await,
    }
    respond(reply)
}

impl Shared {
    fn scripted(&self, seen: &Seen, before: usize) -> Option<Reply> {
        if !self.scripted.load(Ordering::Acquire) {
            return None;
        }
        let script = {
            let mut scripts = lock(&self.scripts);
            let queued = scripts
                .by_device
                .get_mut(&seen.device)
                .and_then(VecDeque::pop_front)
                .or_else(|| scripts.queue.pop_front());
            if queued.is_some() {
                return queued;
            }
            scripts.script.clone()?
        };
        script(seen, before)
    }
}

fn respond(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}
