//! The loop of one thread: what sockets have goes to the core, and what the core wants done is done.
//!
//! It knows which sockets there are and in which order they are served. What packets mean is the core's matter, how they are
//! moved that of [`io`](crate::io).

use std::{
    io::{self, IoSlice},
    ops::Range,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, unix::SourceFd};
use shared::clock::Clock;
use tracing::error;
use turn_relay_proto::{
    Commons, Config, Data, Effect, Effects, FiveTuple, Now, Packet, RelayFailure, Server, Time,
    Transport,
    address::Family,
    commons,
    counters::{Counters, DropReason},
    effect::{Purpose, RelayKind},
    packet::{HEADROOM, TAILROOM},
};

use crate::{
    io::{
        datagrams::{Arena, BATCH, Datagrams, Envelope, MAX_SEGMENTS},
        listeners::UdpListener,
        locals::{Local, Locals, SharedLocals},
        outbox::{Destination, Outbox},
        ready::{Queued, Ready, Source},
        relays::Relays,
    },
    workers::Reloadable,
};

/// What the poll tells of at once.
const EVENTS: usize = 512;

/// Packets after which timers, commands and sockets that became ready meanwhile have their turn.
const TURN: usize = 1_024;

/// As long as something has a deadline the thread looks at the clock this often, whatever the clock says: a manual one may have been moved.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How often an error that may be an earlier datagram's is taken for that.
const RECEIVE_ATTEMPTS: usize = 3;

/// ICMP errors that are read at once: as many datagrams as one batch sends may each bring one.
const ICMP_BATCH: usize = BATCH;

/// What a thread begins with.
pub(crate) struct Setup {
    pub(crate) poll: Poll,
    pub(crate) udp: Vec<UdpListener>,
    pub(crate) locals: Arc<SharedLocals>,
    pub(crate) reloadable: Arc<Reloadable>,
    pub(crate) commons: Arc<Commons>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) commands: Receiver<Command>,
    pub(crate) clock: Clock,
    pub(crate) origin: Instant,
    pub(crate) random: shared::random::Random,
}

/// What other threads want of one. It is woken up after each.
#[derive(Debug)]
pub(crate) enum Command {
    Reconfigure(Arc<Reloadable>),
    Drain,
    Stop,
}

/// The sign of life of a thread, for others to see.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// When it last went through its loop, in nanoseconds since the origin of all threads' time.
    pub(crate) beat: AtomicU64,
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
    queued_listeners: Vec<Queued>,
    commands: Receiver<Command>,
    counters: Arc<Counters>,
    pulse: Arc<Pulse>,
    clock: Clock,
    origin: Instant,
    now: Now,
    stopped: bool,
}

/// What sending takes: all sockets, and what is to be sent.
struct Sender<D> {
    datagrams: D,
    udp: Vec<UdpListener>,
    locals: Locals,
    relays: Relays,
    outbox: Outbox,
    counters: Arc<Counters>,
}

/// Whether a source has more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Some,
    None,
}

impl<D: Datagrams> Worker<D> {
    /// Has all sockets watched.
    pub(crate) fn new(setup: Setup, datagrams: D) -> io::Result<Self> {
        let registry = setup.poll.registry();
        for (index, listener) in (0..).zip(&setup.udp) {
            registry.register(
                &mut SourceFd(&listener.socket.as_raw_fd()),
                Source::UdpListener(index).token(),
                Interest::READABLE,
            )?;
        }
        let config: Arc<Config> = setup.reloadable.core.clone();
        Ok(Self {
            ready: Ready::default(),
            server: Server::new(
                config,
                setup.commons,
                setup.counters.clone(),
                SystemRandom(setup.random),
            ),
            effects: Effects::new(),
            further_effects: Effects::new(),
            arena: Arena::new(),
            queued_listeners: vec![Queued::No; setup.udp.len()],
            sender: Sender {
                datagrams,
                udp: setup.udp,
                locals: Locals::new(setup.locals),
                relays: Relays::default(),
                outbox: Outbox::default(),
                counters: setup.counters.clone(),
            },
            poll: setup.poll,
            commands: setup.commands,
            counters: setup.counters,
            pulse: setup.pulse,
            now: now(&setup.clock, setup.origin),
            clock: setup.clock,
            origin: setup.origin,
            stopped: false,
        })
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.stopped {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                error!(%error, "the poll of a relay thread fails: the thread ends");
                return;
            }
            self.read_clock();
            for event in &events {
                if let Some(source) = Source::from_token(event.token()) {
                    if event.is_error() {
                        self.take_icmp_errors(source);
                    }
                    self.note(source);
                }
            }
            self.serve();
            self.expire();
        }
    }

    /// How long the poll may wait; `None`: until something happens.
    fn patience(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = self.server.next_timeout()?;
        let now = now(&self.clock, self.origin).time;
        Some(next.since(now).min(LONGEST_WAIT))
    }

    fn read_clock(&mut self) {
        self.now = now(&self.clock, self.origin);
        self.pulse
            .beat
            .store(self.now.time.as_nanos(), Ordering::Release);
    }

    /// Something happened at a source.
    fn note(&mut self, source: Source) {
        match source {
            Source::Waker => self.obey(),
            Source::UdpListener(index) => {
                if let Some(queued) = self.queued_listeners.get_mut(index as usize) {
                    self.ready.push(source, queued);
                }
            }
            Source::Relay(slot, family) => {
                if let Some((_, relay)) = self.sender.relays.at(slot, family) {
                    self.ready.push(source, &mut relay.queued);
                }
            }
            Source::TcpListener(_) | Source::Client(_) | Source::Peer(_) => {}
        }
    }

    /// Gives the core the ICMP errors that a relay socket got.
    fn take_icmp_errors(&mut self, source: Source) {
        let Source::Relay(slot, family) = source else {
            return;
        };
        for _ in 0..ICMP_BATCH {
            let Some((id, relay)) = self.sender.relays.at(slot, family) else {
                return;
            };
            let Some(error) = self.sender.datagrams.icmp_error(&relay.socket) else {
                return;
            };
            self.server
                .peer_unreachable(id, error, self.now, &mut self.effects);
            self.carry_out();
        }
    }

    /// Lets sources have their turns, until none has anything or it is time to look at the poll again.
    fn serve(&mut self) {
        let mut left = TURN;
        while left > 0
            && let Some(source) = self.ready.pop()
        {
            let served = match source {
                Source::UdpListener(index) => self.serve_listener(index),
                Source::Relay(slot, family) => {
                    let served = self.serve_relay(slot, family);
                    self.ready.count(served);
                    served
                }
                Source::Waker | Source::TcpListener(_) | Source::Client(_) | Source::Peer(_) => 0,
            };
            left = left.saturating_sub(served.max(1));
        }
    }

    /// What other threads want.
    fn obey(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Reconfigure(reloadable)) => {
                    self.server.reconfigure(reloadable.core.clone());
                }
                Ok(Command::Drain) => self.server.drain(),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                    self.server.close(&mut self.effects);
                    self.carry_out();
                    self.sender.flush(&self.arena);
                    self.stopped = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    /// Deadlines that have come.
    fn expire(&mut self) {
        if self
            .server
            .next_timeout()
            .is_some_and(|timeout| timeout <= self.now.time)
        {
            self.server.handle_timeout(self.now, &mut self.effects);
            self.carry_out();
            self.sender.flush(&self.arena);
        }
    }

    /// Takes a batch of a listener's. The result says how many packets those were.
    fn serve_listener(&mut self, index: u32) -> usize {
        let Some(listener) = self.sender.udp.get(index as usize) else {
            return 0;
        };
        let rest = receive(
            &mut self.sender.datagrams,
            &listener.socket,
            &mut self.arena,
        );
        if let Some(queued) = self.queued_listeners.get_mut(index as usize) {
            *queued = Queued::No;
            if rest == Rest::Some {
                self.ready.push(Source::UdpListener(index), queued);
            }
        }
        let mut served = 0;
        let mut next = 0;
        while let Some(received) = self.arena.get(next) {
            next += 1;
            let local = Local {
                listener: u16::try_from(index).unwrap_or(u16::MAX),
                address: received.to,
            };
            let Some(link) = self.sender.locals.link(local) else {
                continue;
            };
            let client = FiveTuple {
                client: received.from,
                link,
                transport: Transport::Udp,
            };
            let traffic_class = received.traffic_class;
            for place in places(received.range.clone(), received.stride) {
                let packet = place.packet(&mut self.arena);
                self.server.client_packet(
                    client,
                    packet,
                    traffic_class,
                    self.now,
                    &mut self.effects,
                );
                self.carry_out();
                served += 1;
            }
        }
        self.sender.flush(&self.arena);
        served
    }

    /// Takes a batch of a relay socket's. The result says how many packets those were.
    fn serve_relay(&mut self, slot: u32, family: Family) -> usize {
        let Some((id, relay)) = self.sender.relays.at(slot, family) else {
            return 0;
        };
        let rest = receive(&mut self.sender.datagrams, &relay.socket, &mut self.arena);
        relay.queued = Queued::No;
        if rest == Rest::Some {
            self.ready
                .push(Source::Relay(slot, family), &mut relay.queued);
        }
        let mut served = 0;
        let mut next = 0;
        while let Some(received) = self.arena.get(next) {
            next += 1;
            let (peer, traffic_class) = (received.from, received.traffic_class);
            for place in places(received.range.clone(), received.stride) {
                let packet = place.packet(&mut self.arena);
                self.server.peer_packet(
                    id,
                    peer,
                    packet,
                    traffic_class,
                    self.now,
                    &mut self.effects,
                );
                self.carry_out();
                served += 1;
            }
        }
        self.sender.flush(&self.arena);
        served
    }

    /// Carries out what the core wants, and what it wants then.
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
            } => {
                if let Some(destination) = self.sender.to_client(*client, *purpose, *traffic_class)
                {
                    self.sender.send(destination, data, scratch, &self.arena);
                } else {
                    self.counters.drops.add(DropReason::SendFailed, 1);
                }
            }
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
            Effect::OpenRelay {
                relay,
                address,
                kind,
            } => {
                self.sender.flush(&self.arena);
                let opened = match kind {
                    RelayKind::Udp => self.sender.relays.open(
                        *relay,
                        *address,
                        &self.sender.datagrams,
                        self.poll.registry(),
                    ),
                    RelayKind::Tcp => Err(RelayFailure::Other),
                };
                let effects = &mut self.further_effects;
                match opened {
                    Ok(()) => self.server.relay_opened(*relay, effects),
                    Err(failure) => self.server.relay_failed(*relay, failure, self.now, effects),
                }
            }
            Effect::CloseRelay { relay } => {
                self.sender.flush(&self.arena);
                self.sender.relays.close(*relay);
            }
            Effect::ConnectToPeer { .. }
            | Effect::JoinConnections { .. }
            | Effect::ClosePeerConnection { .. }
            | Effect::Authenticated { .. }
            | Effect::AllocationEnded { .. } => {}
        }
    }
}

impl<D: Datagrams> Sender<D> {
    /// How a client is reached.
    fn to_client(
        &mut self,
        client: FiveTuple,
        purpose: Purpose,
        traffic_class: u8,
    ) -> Option<Destination> {
        match client.transport {
            Transport::Udp => {
                let local = self.locals.get(client.link)?;
                Some(Destination::Listener(
                    local.listener,
                    Envelope {
                        to: client.client,
                        from: local.address,
                        traffic_class,
                        dont_fragment: false,
                    },
                ))
            }
            Transport::Tcp | Transport::Tls => Some(Destination::Stream(client.link, purpose)),
            Transport::Dtls => None,
        }
    }

    /// Sends a message, or collects it with others that are [flushed](Self::flush) later.
    fn send(&mut self, destination: Destination, data: &Data, scratch: &[u8], arena: &Arena) {
        match data {
            Data::Packet(range) => {
                if self.outbox.push(destination, range).is_err() {
                    self.flush(arena);
                    // it is empty now, and takes anything
                    let _ = self.outbox.push(destination, range);
                }
            }
            Data::Scratch(range) => {
                self.flush(arena);
                if let Some(message) = scratch.get(range.clone()) {
                    self.transmit(destination, &[IoSlice::new(message)]);
                }
            }
        }
    }

    /// Sends what was collected.
    fn flush(&mut self, arena: &Arena) {
        let Some((destination, messages)) = self.outbox.collected() else {
            return;
        };
        let memory = arena.memory();
        let slice = |range: &Range<usize>| IoSlice::new(memory.get(range.clone()).unwrap_or(&[]));
        if let [message] = messages {
            let message = slice(message);
            self.transmit(destination, &[message]);
        } else {
            let mut slices = [IoSlice::new(&[]); MAX_SEGMENTS];
            let count = messages.len().min(MAX_SEGMENTS);
            for (to, message) in slices.iter_mut().zip(messages) {
                *to = slice(message);
            }
            self.transmit(destination, &slices[..count]);
        }
        self.outbox.clear();
    }

    fn transmit(&mut self, destination: Destination, messages: &[IoSlice<'_>]) {
        let lost = match destination {
            Destination::Listener(index, envelope) => self
                .udp
                .get(usize::from(index))
                .map_or(messages.len(), |listener| {
                    self.datagrams.send(&listener.socket, &envelope, messages)
                }),
            Destination::Relay(slot, family, envelope) => self
                .relays
                .at(slot, family)
                .map_or(messages.len(), |(_, relay)| {
                    self.datagrams.send(&relay.socket, &envelope, messages)
                }),
            Destination::Stream(..) => messages.len(),
        };
        if lost > 0 {
            self.counters.drops.add(DropReason::SendFailed, lost as u64);
        }
    }
}

/// Fills the arena from a socket.
fn receive(
    datagrams: &mut impl Datagrams,
    socket: &std::net::UdpSocket,
    arena: &mut Arena,
) -> Rest {
    for _ in 0..RECEIVE_ATTEMPTS {
        match datagrams.receive(socket, arena) {
            Ok(()) if arena.len() < BATCH => return Rest::None,
            Ok(()) => return Rest::Some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Rest::None,
            Err(_) => {}
        }
    }
    Rest::None
}

/// Where one datagram is, and how much space there is around it.
struct Place {
    range: Range<usize>,
    headroom: usize,
    tailroom: usize,
}

impl Place {
    fn packet(self, arena: &mut Arena) -> Packet<'_> {
        Packet::with_rooms(arena.memory_mut(), self.range, self.headroom, self.tailroom)
    }
}

/// The datagrams of what was received as one: between them there is no space.
fn places(range: Range<usize>, stride: usize) -> impl Iterator<Item = Place> {
    let mut next = Some(range.start);
    std::iter::from_fn(move || {
        let start = next?;
        let end = range.end.min(start.saturating_add(stride.max(1)));
        next = (end < range.end).then_some(end);
        Some(Place {
            headroom: if start == range.start { HEADROOM } else { 0 },
            tailroom: if end == range.end { TAILROOM } else { 0 },
            range: start..end,
        })
    })
}

/// Both clocks.
pub(crate) fn now(clock: &Clock, origin: Instant) -> Now {
    let since = clock.now().saturating_duration_since(origin);
    Now {
        time: Time::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
        unix_seconds: clock.unix_seconds(),
    }
}
