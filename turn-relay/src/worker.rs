//! The loop of one thread: what sockets have goes to the core, and what the core wants done is done.
//!
//! It knows which sockets there are and in which order they are served. What packets mean is the core's matter, how they
//! are moved that of [`io`](crate::io).

mod backend;
mod moderation;
mod packets;
mod peers;
mod sender;
#[cfg(feature = "dtls")]
mod sessions;
mod streams;

use std::{
    io,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use mio::{Events, Interest, Poll, event::Event, unix::SourceFd};
use shared::{clock::Clock, log_gate::LogGate};
use tracing::error;
#[cfg(feature = "dtls")]
use turn_relay_proto::Transport;
use turn_relay_proto::{
    Commons, Effect, Effects, Link, Now, RelayFailure, RelayId, Server, Time,
    address::ConnectionId,
    commons,
    counters::{BindFailure, Counters, DropReason},
};

use self::{moderation::Moderation, sender::Sender};
use crate::{
    io::{
        connections::Connections,
        datagrams::{Arena, Datagrams, Envelope},
        deadlines::Deadlines,
        handovers::Handovers,
        listeners::{StreamListener, UdpListener},
        locals::{Locals, SharedLocals},
        mailbox::Mailbox,
        outbox::{Destination, Outbox},
        peers::{PeerRegistry, Peers},
        ready::{Ready, Source},
        relays::Relays,
        strangers::Strangers,
    },
    workers::Reloadable,
};

/// What the poll tells of at once.
const EVENTS: usize = 512;

/// A poll that takes longer has waited for something to happen.
const REST: Duration = Duration::from_micros(3);

/// Packets after which timers, commands and sockets that became ready meanwhile have their turn.
const TURN: usize = 1_024;

/// As long as something has a deadline the thread looks at the clock this often, whatever the clock says: a manual one may
/// have been moved.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What a thread begins with.
pub(crate) struct Setup {
    /// Its number, from 0 on.
    pub(crate) worker: usize,
    pub(crate) poll: Poll,
    pub(crate) udp: Vec<UdpListener>,
    pub(crate) tcp: Vec<StreamListener>,
    pub(crate) commands: Receiver<Command>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) common: Common,
}

/// What all threads have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) colleagues: Arc<[Colleague]>,
    pub(crate) commons: Arc<Commons>,
    pub(crate) locals: Arc<SharedLocals>,
    pub(crate) strangers: Arc<Strangers>,
    pub(crate) handovers: Arc<Handovers>,
    pub(crate) peers: Arc<PeerRegistry>,
    pub(crate) reloadable: Arc<Reloadable>,
    pub(crate) tls_config: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    #[cfg(feature = "dtls")]
    pub(crate) dtls_config: Option<Arc<ArcSwap<crate::io::dtls::ServerConfig>>>,
    pub(crate) clock: Clock,
    /// The moment that all threads' time counts from.
    pub(crate) origin: Instant,
    pub(crate) random: shared::random::Random,
}

/// A thread, as others reach it.
#[derive(Debug)]
pub(crate) struct Colleague {
    pub(crate) mailbox: Mailbox,
    pub(crate) commands: mpsc::Sender<Command>,
}

/// What other threads want of one.
#[derive(Debug)]
pub(crate) enum Command {
    Reconfigure(Arc<Reloadable>),
    Drain,
    Stop,
    /// Close a connection with a peer that was joined here.
    ClosePeer(ConnectionId),
    /// A connection with a peer that this thread's server has named was closed.
    PeerClosed(RelayId, ConnectionId),
}

/// What others see of a thread.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// When it last went through its loop, in nanoseconds since the origin of all threads' time.
    pub(crate) beat: AtomicU64,
    /// Connections in clear.
    pub(crate) tcp: AtomicU64,
    /// Connections with TLS.
    pub(crate) tls: AtomicU64,
    /// Connections with TLS that the HTTPS backend has.
    pub(crate) https: AtomicU64,
    /// DTLS sessions.
    #[cfg(feature = "dtls")]
    pub(crate) dtls: AtomicU64,
}

/// What has to happen at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    /// A client's connection may have had its time.
    Client(Link),
    /// A client's DTLS session may have had its time, or has something to send again.
    #[cfg(feature = "dtls")]
    Session(Link),
    /// An attempt to connect to a peer, by its place and name, may have had its time.
    Connect(u32, u32),
    /// There may be bandwidth again for a connection with a peer, by its place and name.
    Bandwidth(u32, u32),
    /// The source of that token may be served again.
    Retry(usize),
}

/// Randomness as the core wants it.
#[derive(Debug)]
pub(crate) struct SystemRandom(pub(crate) shared::random::Random);

impl commons::Random for SystemRandom {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

/// One thread's sockets, and its core.
pub(crate) struct Worker<D> {
    poll: Poll,
    ready: Ready,
    server: Server<SystemRandom>,
    effects: Effects,
    /// Of calls that carrying out the effects brings about.
    further_effects: Effects,
    arena: Arena,
    sender: Sender<D>,
    tcp: Vec<StreamListener>,
    peers: Peers,
    peer_registry: Arc<PeerRegistry>,
    strangers: Arc<Strangers>,
    commons: Arc<Commons>,
    handovers: Arc<Handovers>,
    /// Until then nothing is said of the HTTPS backend.
    silent_until: Time,
    tls_config: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    #[cfg(feature = "dtls")]
    dtls_config: Option<Arc<ArcSwap<crate::io::dtls::ServerConfig>>>,
    #[cfg(feature = "dtls")]
    cookies: crate::io::dtls::hello::Cookies,
    deadlines: Deadlines<Alarm>,
    /// What was taken out of the mailbox.
    letters: Vec<u8>,
    reloadable: Arc<Reloadable>,
    commands: Receiver<Command>,
    counters: Arc<Counters>,
    bind_log: LogGate,
    pulse: Arc<Pulse>,
    clock: Clock,
    origin: Instant,
    now: Now,
    /// Rises by one each time that the poll has told what there is, and by more if the thread had rested until then.
    turn: u32,
    moderation: Moderation,
    stopped: bool,
}

impl<D: Datagrams> Worker<D> {
    /// Has all sockets watched.
    ///
    /// # Errors
    ///
    /// If the system does not watch them.
    pub(crate) fn new(setup: Setup, datagrams: D) -> io::Result<Self> {
        let registry = setup.poll.registry();
        for (index, listener) in (0..).zip(&setup.udp) {
            let token = Source::UdpListener(index).token();
            datagrams.watch(registry, &listener.socket, token)?;
        }
        for (index, listener) in (0..).zip(&setup.tcp) {
            let token = Source::TcpListener(index).token();
            let fd = listener.socket.as_raw_fd();
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        }
        let common = setup.common;
        Ok(Self {
            #[cfg(feature = "dtls")]
            cookies: crate::io::dtls::hello::Cookies::new(&common.random),
            ready: Ready::default(),
            server: Server::new(
                Arc::clone(&common.reloadable.core),
                Arc::clone(&common.commons),
                Arc::clone(&setup.counters),
                SystemRandom(common.random),
            ),
            effects: Effects::new(),
            further_effects: Effects::new(),
            arena: Arena::new(),
            sender: Sender {
                worker: setup.worker,
                datagrams,
                udp: setup.udp,
                locals: Locals::new(common.locals),
                relays: Relays::default(),
                connections: Connections::new(setup.worker),
                #[cfg(feature = "dtls")]
                sessions: crate::io::dtls::sessions::Sessions::new(setup.worker),
                #[cfg(feature = "dtls")]
                records: Vec::new(),
                broken: Vec::new(),
                tcp_buffer: common.reloadable.tcp_buffer,
                colleagues: common.colleagues,
                outbox: Outbox::default(),
                counters: Arc::clone(&setup.counters),
            },
            tcp: setup.tcp,
            peers: Peers::default(),
            peer_registry: common.peers,
            strangers: common.strangers,
            commons: common.commons,
            handovers: common.handovers,
            silent_until: Time::default(),
            tls_config: common.tls_config,
            #[cfg(feature = "dtls")]
            dtls_config: common.dtls_config,
            deadlines: Deadlines::default(),
            letters: Vec::new(),
            reloadable: common.reloadable,
            poll: setup.poll,
            commands: setup.commands,
            counters: setup.counters,
            pulse: setup.pulse,
            now: now(&common.clock, common.origin),
            bind_log: LogGate::new(common.clock.now()),
            clock: common.clock,
            origin: common.origin,
            turn: 0,
            moderation: Moderation::default(),
            stopped: false,
        })
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.stopped {
            let asked = self.pause();
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                error!(%error, "the poll of a relay thread fails: the thread ends");
                return;
            }
            self.begin_turn(asked);
            for event in &events {
                self.note(event);
            }
            self.serve();
            self.expire();
        }
    }

    /// Lets packets gather if there are many. The result is the time after that.
    fn pause(&self) -> Instant {
        let now = self.clock.now();
        match self
            .moderation
            .pause(self.now.time, since(now, self.origin))
        {
            Some(pause) if self.ready.is_empty() => {
                thread::sleep(pause);
                self.clock.now()
            }
            _ => now,
        }
    }

    /// How long the poll may wait; `None`: until something happens.
    fn patience(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = [self.server.next_timeout(), self.deadlines.next()];
        let next = next.into_iter().flatten().min()?;
        Some(next.since(self.now.time).min(LONGEST_WAIT))
    }

    /// The poll has told what there is; it was asked at `asked`.
    fn begin_turn(&mut self, asked: Instant) {
        self.now = now(&self.clock, self.origin);
        let nanos = self.now.time.as_nanos();
        self.pulse.beat.store(nanos, Ordering::Release);
        let has_rested = self.now.time > since(asked, self.origin) + REST;
        self.turn = self.turn.wrapping_add(if has_rested { 2 } else { 1 });
    }

    /// Something happened at a source.
    fn note(&mut self, event: &Event) {
        let Some(source) = Source::from_token(event.token()) else {
            return;
        };
        match source {
            Source::Waker => {
                self.obey();
                self.open_letters();
            }
            Source::UdpListener(index) => {
                if let Some(listener) = self.sender.udp.get_mut(index as usize) {
                    self.ready.push(source, &mut listener.queued);
                }
            }
            Source::TcpListener(index) => {
                if let Some(listener) = self.tcp.get_mut(index as usize) {
                    self.ready.push(source, &mut listener.queued);
                }
            }
            Source::Relay(slot, family) => {
                if event.is_error() {
                    self.take_icmp_errors(slot, family);
                }
                if let Some((_, relay)) = self.sender.relays.at(slot, family) {
                    self.ready.push(source, &mut relay.queued);
                }
            }
            Source::Client(slot) => self.note_client(slot, event),
            Source::Peer(slot) => self.note_peer(slot, event),
        }
        self.close_broken();
    }

    /// Lets sources have their turns, until none has anything or it is time to look at the poll again.
    fn serve(&mut self) {
        let mut left = TURN;
        while left > 0
            && let Some(source) = self.ready.pop()
        {
            let served = match source {
                Source::UdpListener(index) => self.serve_listener(index),
                Source::TcpListener(index) => self.accept_clients(index),
                Source::Relay(slot, family) => self.serve_relay(slot, family),
                Source::Client(slot) => self.serve_client(slot),
                Source::Peer(slot) => self.pass_to_client(slot),
                Source::Waker => 0,
            };
            if !matches!(source, Source::UdpListener(_)) {
                self.ready.count(served);
            }
            self.close_broken();
            left = left.saturating_sub(served.max(1));
        }
        self.moderation.count(TURN - left, self.now.time);
    }

    /// Does what other threads want.
    fn obey(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Reconfigure(reloadable)) => {
                    let core = Arc::clone(&reloadable.core);
                    self.server.reconfigure(core, &mut self.effects);
                    self.sender.tcp_buffer = reloadable.tcp_buffer;
                    self.reloadable = reloadable;
                    self.carry_out();
                    self.sender.flush(&self.arena);
                }
                Ok(Command::Drain) => self.server.drain(),
                Ok(Command::ClosePeer(connection)) => self.close_joined(connection),
                Ok(Command::PeerClosed(relay, connection)) => {
                    self.server.peer_connection_closed(relay, connection);
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                    self.server.close(&mut self.effects);
                    self.carry_out();
                    self.sender.flush(&self.arena);
                    #[cfg(feature = "dtls")]
                    self.end_all_sessions();
                    self.stopped = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    /// Wants something of another thread.
    fn tell(&self, worker: usize, command: Command) {
        if let Some(colleague) = self.sender.colleagues.get(worker) {
            colleague.tell(command);
        }
    }

    /// Does what is due.
    fn expire(&mut self) {
        let now = self.now.time;
        if self
            .server
            .next_timeout()
            .is_some_and(|timeout| timeout <= now)
        {
            self.server.handle_timeout(self.now, &mut self.effects);
            self.carry_out();
            self.sender.flush(&self.arena);
        }
        while let Some(alarm) = self.deadlines.pop(now) {
            match alarm {
                Alarm::Client(link) => self.client_deadline(link),
                #[cfg(feature = "dtls")]
                Alarm::Session(link) => self.session_alarm(link),
                Alarm::Connect(slot, connection) => self.connect_deadline(slot, connection),
                Alarm::Bandwidth(slot, connection) => self.bandwidth_deadline(slot, connection),
                Alarm::Retry(token) => self.retry(token),
            }
        }
        self.close_broken();
    }

    /// Carries out what the core wants, and what it wants then.
    ///
    /// Connections are not closed meanwhile, but noted as broken: closing one brings further effects.
    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        loop {
            for effect in effects.list() {
                self.carry_out_one(effect, effects.scratch());
            }
            effects.clear();
            if self.further_effects.list().is_empty() {
                break;
            }
            std::mem::swap(&mut effects, &mut self.further_effects);
        }
        self.effects = effects;
    }

    fn carry_out_one(&mut self, effect: &Effect, scratch: &[u8]) {
        match effect {
            Effect::SendToClient {
                client,
                data,
                purpose,
                traffic_class,
            } => match self.sender.way_to_client(*client, *purpose, *traffic_class) {
                Some(destination) => self.sender.send(destination, data, scratch, &self.arena),
                None => self.counters.drops.add(DropReason::SendFailed, 1),
            },
            Effect::SendToPeer {
                relay,
                peer,
                data,
                dont_fragment,
                traffic_class,
            } => {
                let envelope = Envelope {
                    to: *peer,
                    from: None,
                    traffic_class: *traffic_class,
                    dont_fragment: *dont_fragment,
                };
                let destination = Destination::Relay(relay.slot, relay.family, envelope);
                self.sender.send(destination, data, scratch, &self.arena);
            }
            #[cfg(feature = "dtls")]
            Effect::Authenticated { client } if client.transport == Transport::Dtls => {
                self.session_is_no_stranger(*client);
            }
            #[cfg(feature = "dtls")]
            Effect::AllocationEnded { client } if client.transport == Transport::Dtls => {
                self.session_is_idle(*client);
            }
            Effect::Authenticated { client } => self.is_no_stranger(*client),
            Effect::AllocationEnded { client } => self.is_idle(*client),
            Effect::OpenRelay { .. }
            | Effect::CloseRelay { .. }
            | Effect::ConnectToPeer { .. }
            | Effect::JoinConnections { .. }
            | Effect::ClosePeerConnection { .. } => {
                // what was to be sent before comes before
                self.sender.flush(&self.arena);
                self.change_sockets(effect);
            }
        }
    }

    /// A relay socket is not there: clients hear 508, unless another port is free, and the operator hears of what is wrong.
    fn cannot_open(&mut self, relay: RelayId, error: &io::Error) {
        let failure = if error.kind() == io::ErrorKind::AddrInUse {
            RelayFailure::PortInUse
        } else {
            let kind = kind_of(error);
            self.counters.bind_failures.add(kind, 1);
            if let Some(held_back) = self.bind_log.pass(self.clock.now()) {
                error!(
                    %error,
                    held_back,
                    "no socket can be bound for a relayed address: {}",
                    remedy(kind)
                );
            }
            RelayFailure::Other
        };
        let effects = &mut self.further_effects;
        self.server.relay_failed(relay, failure, self.now, effects);
    }

    /// The effects that are about sockets, not about messages.
    fn change_sockets(&mut self, effect: &Effect) {
        match *effect {
            Effect::OpenRelay {
                relay,
                address,
                kind,
            } => {
                let registry = self.poll.registry();
                let datagrams = &self.sender.datagrams;
                let relays = &mut self.sender.relays;
                match relays.open(relay, address, kind, datagrams, registry) {
                    Ok(()) => self.server.relay_opened(relay, &mut self.further_effects),
                    Err(error) => self.cannot_open(relay, &error),
                }
            }
            Effect::CloseRelay { relay } => {
                self.sender.relays.close(relay);
                self.close_peers_of(relay);
            }
            Effect::ConnectToPeer {
                relay,
                peer,
                connection,
            } => self.connect_to_peer(relay, peer, connection),
            Effect::JoinConnections { client, connection } => self.join(client, connection),
            Effect::ClosePeerConnection { connection } => self.close_peer(connection),
            Effect::SendToClient { .. }
            | Effect::SendToPeer { .. }
            | Effect::Authenticated { .. }
            | Effect::AllocationEnded { .. } => {}
        }
    }
}

/// Why a relay socket could not be bound, other than that somebody else has the port.
fn kind_of(error: &io::Error) -> BindFailure {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => BindFailure::AddressGone,
        Some(libc::EMFILE | libc::ENFILE) => BindFailure::OpenFiles,
        Some(libc::ENOBUFS | libc::ENOMEM) => BindFailure::Memory,
        Some(libc::EACCES | libc::EPERM) => BindFailure::Denied,
        _ => BindFailure::Other,
    }
}

/// What is to be done about it.
const fn remedy(kind: BindFailure) -> &'static str {
    match kind {
        BindFailure::AddressGone => {
            "an address that relayed addresses are made on is no longer this host's: set `relay.addresses` to one \
             that stays, and restart"
        }
        BindFailure::OpenFiles => "there are no open files left: raise LimitNOFILE=",
        BindFailure::Memory => "the system has no memory left for sockets",
        BindFailure::Denied => {
            "the system forbids it: is there a filter for system calls or a security module?"
        }
        BindFailure::Other => "the system does not say why",
    }
}

impl Pulse {
    /// The HTTPS backend has one more of the connections with TLS.
    fn moves_to_https(&self) {
        self.tls.fetch_sub(1, Ordering::Relaxed);
        self.https.fetch_add(1, Ordering::Relaxed);
    }
}

impl Colleague {
    /// Wants something of that thread.
    pub(crate) fn tell(&self, command: Command) {
        // a thread that has ended needs no command
        let _ = self.commands.send(command);
        let _ = self.mailbox.wake();
    }
}

/// Both clocks.
pub(crate) fn now(clock: &Clock, origin: Instant) -> Now {
    Now {
        time: since(clock.now(), origin),
        unix_seconds: clock.unix_seconds(),
    }
}

/// The time as the core counts it.
fn since(now: Instant, origin: Instant) -> Time {
    let nanos = now.saturating_duration_since(origin).as_nanos();
    Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
