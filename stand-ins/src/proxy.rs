//! An HTTP proxy that knows CONNECT and nothing else, on loopback.
//!
//! It reaches loopback addresses and names that were mapped to one, so that a test can use the
//! providers' own names and still never leave the machine.

use std::{
    collections::HashMap,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

use crate::support::{lock, now};

const MOST_HEAD: usize = 16 * 1024;

/// A proxy; dropping it closes its tunnels.
pub struct Proxy {
    shared: Arc<Shared>,
    running: Mutex<Running>,
}

/// A CONNECT request as it came in.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// When it came.
    pub at: Instant,
    /// What it asked for, `host:port`; the whole first line's second word, whatever it is.
    pub target: String,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// `Proxy-Authorization` as it was sent.
    pub authorization: Option<String>,
    /// The status it was answered with.
    pub answered: u16,
}

#[derive(Default)]
struct Behaviour {
    demanded: Option<String>,
    mapped: HashMap<String, SocketAddr>,
    refuse: Option<u16>,
    surplus: Vec<u8>,
    split: bool,
    old: bool,
}

struct Shared {
    address: SocketAddr,
    behaviour: Mutex<Behaviour>,
    tunnels: Mutex<Vec<Tunnel>>,
    arrived: Notify,
}

enum Running {
    Accepting(JoinHandle<()>),
    Stopped(Option<TcpSocket>),
}

impl Proxy {
    /// Starts it on a free loopback port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let shared = Arc::new(Shared {
            address: listener.local_addr()?,
            behaviour: Mutex::default(),
            tunnels: Mutex::default(),
            arrived: Notify::new(),
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

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Its URL with a user and a password, neither of which may need escaping.
    #[must_use]
    pub fn url_with(&self, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@{}", self.shared.address)
    }

    /// Asks for this user and password from now on; answers 407 without them.
    pub fn require(&self, user: &str, password: &str) {
        let demanded = STANDARD.encode(format!("{user}:{password}"));
        lock(&self.shared.behaviour).demanded = Some(demanded);
    }

    /// Reaches `target` (`host:port`) at another address.
    pub fn map(&self, target: &str, to: SocketAddr) {
        lock(&self.shared.behaviour)
            .mapped
            .insert(target.to_ascii_lowercase(), to);
    }

    /// Answers every CONNECT with a status; none: as usual.
    pub fn refuse(&self, status: Option<u16>) {
        lock(&self.shared.behaviour).refuse = status;
    }

    /// Sends bytes of its own directly after the head of its 200, in the same segment.
    pub fn send_surplus(&self, bytes: &[u8]) {
        lock(&self.shared.behaviour).surplus = bytes.to_vec();
    }

    /// Sends the head of its 200 in several small segments.
    pub fn split_answer(&self, split: bool) {
        lock(&self.shared.behaviour).split = split;
    }

    /// Answers in HTTP/1.0, as some proxies do.
    pub fn answer_in_http_1_0(&self, old: bool) {
        lock(&self.shared.behaviour).old = old;
    }

    /// All CONNECT requests so far.
    #[must_use]
    pub fn tunnels(&self) -> Vec<Tunnel> {
        lock(&self.shared.tunnels).clone()
    }

    /// Waits until there were `count` requests, at most for `patience`, and gives all there are.
    pub async fn wait_for(&self, count: usize, patience: Duration) -> Vec<Tunnel> {
        let enough = async {
            loop {
                let arrived = self.shared.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if lock(&self.shared.tunnels).len() >= count {
                    return;
                }
                arrived.await;
            }
        };
        // too few by then: the caller sees how many
        let _ = tokio::time::timeout(patience, enough).await;
        self.tunnels()
    }

    /// Closes all tunnels and refuses connections. The port stays this proxy's.
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

    /// Takes connections again.
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

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Running::Accepting(task) = &*lock(&self.running) {
            task.abort();
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Proxy({})", self.shared.address)
    }
}

/// Takes connections until it is aborted, which ends them, too: they live in its set of tasks.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut tunnels = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tunnels.spawn(serve(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = tunnels.join_next() => {}
        }
    }
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let _ = client.set_nodelay(true);
    let Some((head, early)) = read_head(&mut client).await else {
        return;
    };
    // an error here is the client's going away
    let _ = tunnel(&mut client, &head, &early, &shared).await;
}

async fn tunnel(
    client: &mut TcpStream,
    head: &str,
    early: &[u8],
    shared: &Shared,
) -> io::Result<()> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let authorization = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"))
        .map(|(_, value)| value.trim().to_owned());
    let (status, to) = shared.decide(method, target, authorization.as_deref());
    let upstream = match to {
        Some(to) => TcpStream::connect(to).await.ok(),
        None => None,
    };
    let status = if status == 200 && upstream.is_none() {
        502
    } else {
        status
    };
    lock(&shared.tunnels).push(Tunnel {
        at: now(),
        target: target.to_owned(),
        version: version.to_owned(),
        authorization,
        answered: status,
    });
    shared.arrived.notify_waiters();
    let (old, split, surplus) = {
        let behaviour = lock(&shared.behaviour);
        (behaviour.old, behaviour.split, behaviour.surplus.clone())
    };
    let spoken = if old { "HTTP/1.0" } else { "HTTP/1.1" };
    let Some(mut upstream) = upstream.filter(|_| status == 200) else {
        let challenge = if status == 407 {
            "Proxy-Authenticate: Basic realm=\"stand-in\"\r\n"
        } else {
            ""
        };
        let answer = format!(
            "{spoken} {status} Refused\r\n{challenge}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        client.write_all(answer.as_bytes()).await?;
        return client.shutdown().await;
    };
    let _ = upstream.set_nodelay(true);
    let mut answer = format!("{spoken} 200 Connection established\r\n\r\n").into_bytes();
    if split {
        for part in answer.chunks(7) {
            client.write_all(part).await?;
            client.flush().await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        client.write_all(&surplus).await?;
    } else {
        answer.extend_from_slice(&surplus);
        client.write_all(&answer).await?;
    }
    upstream.write_all(early).await?;
    copy_bidirectional(client, &mut upstream).await?;
    Ok(())
}

impl Shared {
    /// The status, and where to connect to.
    fn decide(
        &self,
        method: &str,
        target: &str,
        authorization: Option<&str>,
    ) -> (u16, Option<SocketAddr>) {
        let behaviour = lock(&self.behaviour);
        if method != "CONNECT" {
            return (405, None);
        }
        if let Some(demanded) = &behaviour.demanded {
            let given = authorization
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
                .map(|(_, credentials)| credentials.trim());
            if given != Some(demanded) {
                return (407, None);
            }
        }
        if let Some(status) = behaviour.refuse {
            return (status, None);
        }
        let to = behaviour
            .mapped
            .get(&target.to_ascii_lowercase())
            .copied()
            .or_else(|| {
                target
                    .parse::<SocketAddr>()
                    .ok()
                    .filter(|address| address.ip().is_loopback())
            });
        // nothing but loopback is ever reached
        to.map_or((502, None), |to| (200, Some(to)))
    }
}

/// The head of a request and what came behind it.
async fn read_head(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let early = bytes.split_off(end + 4);
            bytes.truncate(end);
            return Some((String::from_utf8(bytes).ok()?, early));
        }
        if bytes.len() > MOST_HEAD {
            return None;
        }
        if client.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Binds the address again without listening on it.
fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
