//! The threads that relay: each with its own sockets, its own [`Server`](turn_relay_proto::Server) and its own loop.

use std::{
    fmt, io,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use mio::{Poll, Waker};
use shared::{clock::Clock, random::Random};
use tracing::error;
use turn_relay_proto::{Commons, Config, counters::Counters};

use crate::{
    io::{
        SystemDatagrams,
        backend::Backend,
        handovers,
        listeners::{self, StreamListener, UdpListener},
        mailbox::Mailbox,
        ready::Source,
    },
    worker::{Colleague, Command, Common, Pulse, Setup, SystemRandom, Worker},
};

/// How long a thread may take for its loop before it is taken for dead.
const ALIVE: Duration = Duration::from_secs(10);

/// The most threads: what a number of a connection has space for.
const MAX_WORKERS: usize = 255;

/// What cannot be changed while the relay runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads, 1 or more.
    pub workers: usize,
    /// `listen.udp`.
    pub udp: Vec<SocketAddr>,
    /// `listen.tcp`. Plain and TLS are told apart by the first byte, here and in `tls`.
    pub tcp: Vec<SocketAddr>,
    /// `listen.tls`. What is in `tcp`, too, has one socket for both.
    pub tls: Vec<SocketAddr>,
    /// `listen.dtls`. With the cargo feature `dtls` alone.
    pub dtls: Vec<SocketAddr>,
    /// `relay.ports`.
    pub relay_ports: RangeInclusive<u16>,
    /// The current certificate; `None` if there is none: then nothing listens for TLS, and a TLS handshake on a plain port is refused.
    pub tls_config: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    /// The current certificate for `dtls`.
    #[cfg(feature = "dtls")]
    pub dtls_config: Option<Arc<ArcSwap<crate::io::dtls::ServerConfig>>>,
}

/// What a reload may change.
#[derive(Clone, Debug)]
pub struct Reloadable {
    /// The core's settings.
    pub core: Arc<Config>,
    /// Networks of proxies, whose TCP connections begin with a PROXY protocol v2 header (`listen.proxy_protocol`).
    pub proxies: Vec<IpNet>,
    /// Connections of one /24 or /48 that have not authenticated (`quotas.connections_per_prefix`).
    pub connections_per_prefix: usize,
    /// Bytes that wait for one slow TCP or TLS client (`quotas.tcp_buffer`).
    pub tcp_buffer: usize,
    /// `timeouts.tls_handshake`.
    pub tls_handshake: Duration,
    /// `timeouts.first_request`: how long a connection may be open without an authentic request.
    pub first_request: Duration,
    /// `timeouts.idle`: how long a connection may be open after its allocation ended.
    pub idle: Duration,
    /// Who gets HTTP that comes over TLS to the addresses of `listen.tls` (`listen.https_backend`).
    pub https_backend: Option<Backend>,
    /// How many connections it may have (`quotas.https_connections`, `quotas.https_connections_per_prefix`).
    pub https_connections: handovers::Limits,
    /// `timeouts.https_idle`: how long nothing may go to or fro on one of them.
    pub https_idle: Duration,
}

/// The running threads.
pub struct Workers {
    threads: Vec<Thread>,
    colleagues: Arc<[Colleague]>,
    counters: Vec<Arc<Counters>>,
    commons: Arc<Commons>,
    local_addresses: Vec<SocketAddr>,
    clock: Clock,
    origin: Instant,
}

/// One thread, as others see it.
struct Thread {
    /// `None` once it was waited for.
    handle: Option<JoinHandle<()>>,
    pulse: Arc<Pulse>,
    /// When it was asked for a sign of life, in nanoseconds since the origin.
    asked: AtomicU64,
}

/// The listening sockets of each thread.
struct Listeners {
    udp: Vec<Vec<UdpListener>>,
    tcp: Vec<Vec<StreamListener>>,
    addresses: Vec<SocketAddr>,
}

impl Workers {
    /// Opens all sockets and starts the threads.
    ///
    /// # Errors
    ///
    /// Which address could not be listened on, why, and what to do about it.
    pub fn start(
        settings: Settings,
        reloadable: Reloadable,
        clock: Clock,
        random: Random,
    ) -> Result<Self, String> {
        let workers = settings.workers.clamp(1, MAX_WORKERS);
        #[cfg(not(feature = "dtls"))]
        if let Some(address) = settings.dtls.first() {
            return Err(format!(
                "cannot listen on {address}: no DTLS is spoken here"
            ));
        }
        let listeners = Listeners::open(&settings, workers)?;
        let mut polls = Vec::with_capacity(workers);
        let mut colleagues = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (poll, waker) = poll().map_err(|error| {
                format!("cannot watch sockets: {error}; are there open files left (LimitNOFILE)?")
            })?;
            let (commands, inbox) = mpsc::channel();
            polls.push((poll, inbox));
            colleagues.push(Colleague {
                mailbox: Mailbox::new(waker),
                commands,
            });
        }
        let colleagues: Arc<[Colleague]> = colleagues.into();
        let commons = Arc::new(Commons::new(
            &reloadable.core.relay_addresses,
            settings.relay_ports,
            &mut SystemRandom(random.clone()),
        ));
        let origin = clock.now();
        let common = Common {
            colleagues: Arc::clone(&colleagues),
            commons: Arc::clone(&commons),
            locals: Arc::default(),
            strangers: Arc::default(),
            handovers: Arc::default(),
            peers: Arc::default(),
            reloadable: Arc::new(reloadable),
            tls_config: settings.tls_config,
            #[cfg(feature = "dtls")]
            dtls_config: settings.dtls_config,
            clock: clock.clone(),
            origin,
            random,
        };
        let mut all = Self {
            threads: Vec::with_capacity(workers),
            colleagues,
            counters: Vec::with_capacity(workers),
            commons,
            local_addresses: listeners.addresses,
            clock,
            origin,
        };
        let sockets = listeners.udp.into_iter().zip(listeners.tcp);
        for (worker, ((poll, commands), (udp, tcp))) in polls.into_iter().zip(sockets).enumerate() {
            let counters = Arc::new(Counters::default());
            let pulse = Arc::new(Pulse::default());
            let setup = Setup {
                worker,
                poll,
                udp,
                tcp,
                commands,
                counters: Arc::clone(&counters),
                pulse: Arc::clone(&pulse),
                common: common.clone(),
            };
            let handle = thread::Builder::new()
                .name(format!("relay-{worker}"))
                .spawn(move || match Worker::new(setup, SystemDatagrams::new()) {
                    Ok(worker) => worker.run(),
                    Err(error) => error!(%error, "a relay thread cannot watch its sockets"),
                })
                .map_err(|error| format!("cannot start a thread: {error}"))?;
            all.counters.push(counters);
            all.threads.push(Thread {
                handle: Some(handle),
                pulse,
                asked: AtomicU64::new(0),
            });
        }
        Ok(all)
    }

    /// Takes new settings, on all threads, without touching an allocation.
    pub fn reconfigure(&self, reloadable: Reloadable) {
        let reloadable = Arc::new(reloadable);
        self.tell(|| Command::Reconfigure(reloadable.clone()));
    }

    /// No new allocations from now on; new connections are still taken, since clients refresh over them.
    pub fn drain(&self) {
        self.tell(|| Command::Drain);
    }

    /// Allocations that there are now.
    #[must_use]
    pub fn allocations(&self) -> u32 {
        self.commons.allocations()
    }

    /// What each thread counts.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// TCP and TLS connections and DTLS sessions that are open now.
    #[must_use]
    pub fn connections(&self) -> Connections {
        let sum = |open: fn(&Pulse) -> &AtomicU64| {
            let open = |thread: &Thread| open(&thread.pulse).load(Ordering::Relaxed);
            self.threads.iter().map(open).sum()
        };
        Connections {
            tcp: sum(|pulse| &pulse.tcp),
            tls: sum(|pulse| &pulse.tls),
            https: sum(|pulse| &pulse.https),
            #[cfg(feature = "dtls")]
            dtls: sum(|pulse| &pulse.dtls),
        }
    }

    /// Whether all threads run, and each went through its loop within the last seconds: for `/health` and systemd's
    /// watchdog.
    ///
    /// Idle threads sleep: this wakes them, and the next call sees whether they woke up.
    #[must_use]
    pub fn are_alive(&self) -> bool {
        let now = crate::worker::now(&self.clock, self.origin).time.as_nanos();
        self.threads
            .iter()
            .zip(self.colleagues.iter())
            .all(|(thread, colleague)| thread.is_alive(now, colleague))
    }

    /// Local addresses in use, as bound (for port 0 the one that the system chose): UDP, TCP and, with a certificate,
    /// TLS and DTLS, in the order of the settings.
    #[must_use]
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local_addresses
    }

    /// Ends all allocations and threads, and waits for them.
    pub fn stop(self) {
        drop(self);
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for colleague in self.colleagues.iter() {
            colleague.tell(command());
        }
    }
}

impl Listeners {
    fn open(settings: &Settings, workers: usize) -> Result<Self, String> {
        let mut all = Self {
            udp: (0..workers).map(|_| Vec::new()).collect(),
            tcp: (0..workers).map(|_| Vec::new()).collect(),
            addresses: Vec::new(),
        };
        for address in &settings.udp {
            let (address, sockets) = listeners::udp(*address, workers, &SystemDatagrams::new())?;
            all.addresses.push(address);
            for (of_worker, socket) in all.udp.iter_mut().zip(sockets) {
                of_worker.push(socket);
            }
        }
        let mut encrypted = Vec::new();
        #[cfg(feature = "dtls")]
        if settings.dtls_config.is_some() {
            for address in &settings.dtls {
                let (address, sockets) =
                    listeners::udp(*address, workers, &SystemDatagrams::new())?;
                encrypted.push(address);
                for (of_worker, mut socket) in all.udp.iter_mut().zip(sockets) {
                    socket.is_encrypted = true;
                    of_worker.push(socket);
                }
            }
        }
        let tls: &[SocketAddr] = match &settings.tls_config {
            Some(_) => &settings.tls,
            None => &[],
        };
        // with port 0 the system chooses one for each
        let is_both = |address: &SocketAddr| address.port() != 0 && settings.tcp.contains(address);
        let of_tcp = settings.tcp.iter().map(|address| {
            let is_tls = address.port() != 0 && tls.contains(address);
            (address, is_tls)
        });
        let of_tls = tls.iter().filter(|address| !is_both(address));
        for (address, is_https) in of_tcp.chain(of_tls.map(|address| (address, true))) {
            let (bound, sockets) = listeners::tcp(*address, workers)?;
            all.addresses.push(bound);
            for (of_worker, mut socket) in all.tcp.iter_mut().zip(sockets) {
                socket.is_https = is_https;
                of_worker.push(socket);
            }
        }
        all.addresses.append(&mut encrypted);
        Ok(all)
    }
}

fn poll() -> io::Result<(Poll, Waker)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), Source::Waker.token())?;
    Ok((poll, waker))
}

impl Thread {
    fn is_alive(&self, now: u64, colleague: &Colleague) -> bool {
        if self.handle.as_ref().is_none_or(JoinHandle::is_finished) {
            return false;
        }
        let asked = self.asked.load(Ordering::Relaxed);
        if self.pulse.beat.load(Ordering::Acquire) >= asked {
            // it answered the last question
            self.asked.store(now, Ordering::Relaxed);
            let _ = colleague.mailbox.wake();
            return true;
        }
        u128::from(now.saturating_sub(asked)) < ALIVE.as_nanos()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.tell(|| Command::Stop);
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                // a panic was told when it happened
                let _ = handle.join();
            }
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} relay threads", self.threads.len())
    }
}

/// Numbers of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// In clear.
    pub tcp: u64,
    /// Encrypted, but for those in `https`.
    pub tls: u64,
    /// Encrypted, and with the HTTPS backend.
    pub https: u64,
    /// DTLS sessions.
    #[cfg(feature = "dtls")]
    pub dtls: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(work: impl FnOnce() + Send + 'static) -> (Thread, Colleague) {
        let (_, waker) = poll().expect("possible");
        let (commands, _) = mpsc::channel();
        let thread = Thread {
            handle: Some(thread::spawn(work)),
            pulse: Arc::default(),
            asked: AtomicU64::new(0),
        };
        let mailbox = Mailbox::new(waker);
        (thread, Colleague { mailbox, commands })
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_thread_that_panicked_is_dead() {
        let (thread, colleague) = thread(|| std::panic::resume_unwind(Box::new("for a test")));
        while !thread.handle.as_ref().is_some_and(JoinHandle::is_finished) {
            thread::yield_now();
        }
        assert!(!thread.is_alive(SECOND, &colleague));
    }

    #[test]
    fn a_thread_that_does_not_answer_is_dead_after_a_while() {
        let (wake, sleep) = mpsc::channel::<()>();
        let (thread, colleague) = thread(move || {
            let _ = sleep.recv();
        });
        // this asks for the first time
        assert!(thread.is_alive(100 * SECOND, &colleague));
        assert!(thread.is_alive(105 * SECOND, &colleague));
        assert!(!thread.is_alive(111 * SECOND, &colleague));
        // it went through its loop after all
        thread.pulse.beat.store(112 * SECOND, Ordering::Release);
        assert!(thread.is_alive(113 * SECOND, &colleague));
        thread.pulse.beat.store(114 * SECOND, Ordering::Release);
        // it slept, since nobody asked
        assert!(thread.is_alive(200 * SECOND, &colleague));
        assert!(!thread.is_alive(300 * SECOND, &colleague));
        drop(wake);
    }
}
