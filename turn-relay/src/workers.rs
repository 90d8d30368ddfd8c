//! The threads that relay: each with its own sockets, its own [`Server`](turn_relay_proto::Server) and its own loop.

use std::{
    fmt,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use mio::{Poll, Waker};
use shared::{clock::Clock, random::Random};
use turn_relay_proto::{Commons, Config, counters::Counters};

use crate::{
    io::{SystemDatagrams, listeners, locals::SharedLocals, ready::Source},
    worker::{Command, Pulse, Setup, SystemRandom, Worker},
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
    /// `listen.tls`.
    pub tls: Vec<SocketAddr>,
    /// `listen.dtls`. With the cargo feature `dtls` alone.
    pub dtls: Vec<SocketAddr>,
    /// `relay.ports`.
    pub relay_ports: RangeInclusive<u16>,
    /// The current certificate; `None` if there is none: then nothing listens for TLS, and a TLS handshake on a plain port is refused.
    pub tls_config: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
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
}

/// The running threads.
pub struct Workers {
    threads: Vec<Thread>,
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
    commands: Sender<Command>,
    waker: Waker,
    pulse: Arc<Pulse>,
    /// When it was asked for a sign of life, in nanoseconds since the origin.
    asked: AtomicU64,
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
        let datagrams = SystemDatagrams::new();
        let mut local_addresses = Vec::new();
        let mut udp: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        for address in &settings.udp {
            let (address, sockets) = listeners::udp(*address, workers, &datagrams)?;
            local_addresses.push(address);
            for (all, socket) in udp.iter_mut().zip(sockets) {
                all.push(socket);
            }
        }
        let commons = Arc::new(Commons::new(
            &reloadable.core.relay_addresses,
            settings.relay_ports,
            &mut SystemRandom(random.clone()),
        ));
        let reloadable = Arc::new(reloadable);
        let locals = Arc::new(SharedLocals::default());
        let origin = clock.now();
        let mut all = Self {
            threads: Vec::with_capacity(workers),
            counters: Vec::with_capacity(workers),
            commons: commons.clone(),
            local_addresses,
            clock: clock.clone(),
            origin,
        };
        for (index, udp) in udp.into_iter().enumerate() {
            let no_poll = |error| {
                format!("cannot watch sockets: {error}; are there open files left (LimitNOFILE)?")
            };
            let poll = Poll::new().map_err(no_poll)?;
            let waker = Waker::new(poll.registry(), Source::Waker.token()).map_err(no_poll)?;
            let (commands, inbox) = mpsc::channel();
            let counters = Arc::new(Counters::default());
            let pulse = Arc::new(Pulse::default());
            let setup = Setup {
                poll,
                udp,
                locals: locals.clone(),
                reloadable: reloadable.clone(),
                commons: commons.clone(),
                counters: counters.clone(),
                pulse: pulse.clone(),
                commands: inbox,
                clock: clock.clone(),
                origin,
                random: random.clone(),
            };
            let handle = thread::Builder::new()
                .name(format!("relay-{index}"))
                .spawn(move || match Worker::new(setup, SystemDatagrams::new()) {
                    Ok(worker) => worker.run(),
                    Err(error) => {
                        tracing::error!(%error, "a relay thread cannot watch its sockets")
                    }
                })
                .map_err(|error| format!("cannot start a thread: {error}"))?;
            all.counters.push(counters);
            all.threads.push(Thread {
                handle: Some(handle),
                commands,
                waker,
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

    /// TCP and TLS connections that are open now.
    #[must_use]
    pub fn connections(&self) -> Connections {
        Connections::default()
    }

    /// Whether all threads run, and each went through its loop within the last seconds: for `/health` and systemd's
    /// watchdog.
    ///
    /// Idle threads sleep: this wakes them, and the next call sees whether they woke up.
    #[must_use]
    pub fn are_alive(&self) -> bool {
        let now = crate::worker::now(&self.clock, self.origin).time.as_nanos();
        self.threads.iter().all(|thread| thread.is_alive(now))
    }

    /// Local addresses in use, as bound (for port 0 the one that the system chose): UDP, TCP, TLS, in the order of the
    /// settings.
    #[must_use]
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local_addresses
    }

    /// Ends all allocations and threads, and waits for them.
    pub fn stop(self) {
        drop(self);
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for thread in &self.threads {
            thread.tell(command());
        }
    }
}

impl Thread {
    fn tell(&self, command: Command) {
        // a thread that has ended needs no command; that it ended is seen by `is_alive`
        let _ = self.commands.send(command);
        let _ = self.waker.wake();
    }

    fn is_alive(&self, now: u64) -> bool {
        if self.handle.as_ref().is_none_or(JoinHandle::is_finished) {
            return false;
        }
        let asked = self.asked.load(Ordering::Relaxed);
        if self.pulse.beat.load(Ordering::Acquire) >= asked {
            // it answered the last question
            self.asked.store(now, Ordering::Relaxed);
            let _ = self.waker.wake();
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
    /// Encrypted.
    pub tls: u64,
}
