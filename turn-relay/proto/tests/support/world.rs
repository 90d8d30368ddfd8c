//! Servers that share a [`Commons`], with sockets, networks and time that are moved by hand. What holds for every effect is asserted for every
//! effect, whatever the test is about.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use turn_relay_proto::{
    Commons, Config, ConnectFailure, Data, Effect, Effects, FiveTuple, IcmpError, Now, Packet,
    RelayFailure, RelayId, Server, Time,
    address::{ConnectionId, Family, Link, Transport},
    config::{Quotas, RelayAddress},
    counters::{Counters, DropReason},
    credential::Secrets,
    effect::{Purpose, RelayKind},
    packet::{HEADROOM, TAILROOM},
    policy::PeerPolicy,
};

use super::{
    random::Seeded,
    stun::{Decoded, MessageClass},
};

pub(crate) const REALM: &str = "turn.example.org";
pub(crate) const SECRET: &str = "the secret of the relay";
/// When every world begins.
pub(crate) const START: Time = Time::from_nanos(12_345_000_000_000);
/// Where relayed addresses are, unless a test says something else.
pub(crate) const RELAY_V4: &str = "203.0.113.7";
pub(crate) const RELAY_V6: &str = "2001:db8:7::7";

/// A socket of a relayed transport address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket {
    /// What it is bound to.
    pub(crate) bound: SocketAddr,
    /// What clients are told.
    pub(crate) advertised: SocketAddr,
    pub(crate) kind: RelayKind,
}

/// A message that was sent to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToClient {
    pub(crate) client: FiveTuple,
    pub(crate) message: FromServer,
    pub(crate) purpose: Purpose,
    pub(crate) traffic_class: u8,
    /// Padding included.
    pub(crate) len: usize,
}

/// What a client reads out of a message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromServer {
    Stun(Decoded),
    ChannelData(u16, Vec<u8>),
}

/// A datagram that was sent to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToPeer {
    /// The relayed transport address as the peer sees it.
    pub(crate) from: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) payload: Vec<u8>,
    pub(crate) dont_fragment: bool,
    pub(crate) traffic_class: u8,
}

/// All effects of one call, those of carrying out effects included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) to_clients: Vec<ToClient>,
    pub(crate) to_peers: Vec<ToPeer>,
    pub(crate) opened: Vec<Socket>,
    pub(crate) closed: Vec<Socket>,
    pub(crate) connects: Vec<(RelayId, SocketAddr, ConnectionId)>,
    pub(crate) joined: Vec<(FiveTuple, ConnectionId)>,
    pub(crate) closed_connections: Vec<ConnectionId>,
    pub(crate) authenticated: Vec<FiveTuple>,
    pub(crate) ended: Vec<FiveTuple>,
    /// In their order.
    pub(crate) effects: Vec<Effect>,
}

impl Outcome {
    /// Asserts that nothing was done at all.
    #[track_caller]
    pub(crate) fn nothing(&self) {
        assert!(self.effects.is_empty(), "nothing wanted: {self:?}");
    }

    /// Asserts that nothing was sent to anybody.
    #[track_caller]
    pub(crate) fn silence(&self) {
        assert!(
            self.to_clients.is_empty() && self.to_peers.is_empty(),
            "silence wanted: {self:?}"
        );
    }

    /// The one STUN message to a client that there is.
    #[track_caller]
    pub(crate) fn stun(&self) -> &Decoded {
        let [ToClient { message, .. }] = self.to_clients.as_slice() else {
            panic!("one message to a client wanted: {self:?}");
        };
        match message {
            FromServer::Stun(decoded) => decoded,
            FromServer::ChannelData(..) => panic!("no ChannelData wanted: {self:?}"),
        }
    }

    /// The one ChannelData message to a client that there is.
    #[track_caller]
    pub(crate) fn channel_data(&self) -> (u16, &[u8]) {
        let [ToClient { message, .. }] = self.to_clients.as_slice() else {
            panic!("one message to a client wanted: {self:?}");
        };
        match message {
            FromServer::Stun(_) => panic!("ChannelData wanted: {self:?}"),
            FromServer::ChannelData(number, data) => (*number, data),
        }
    }

    /// The one datagram to a peer that there is.
    #[track_caller]
    pub(crate) fn to_peer(&self) -> &ToPeer {
        let [to_peer] = self.to_peers.as_slice() else {
            panic!("one datagram to a peer wanted: {self:?}");
        };
        assert!(self.to_clients.is_empty(), "{self:?}");
        to_peer
    }

    fn append(&mut self, mut later: Self) {
        self.to_clients.append(&mut later.to_clients);
        self.to_peers.append(&mut later.to_peers);
        self.opened.append(&mut later.opened);
        self.closed.append(&mut later.closed);
        self.connects.append(&mut later.connects);
        self.joined.append(&mut later.joined);
        self.closed_connections
            .append(&mut later.closed_connections);
        self.authenticated.append(&mut later.authenticated);
        self.ended.append(&mut later.ended);
        self.effects.append(&mut later.effects);
    }
}

/// The space around the next packets in their buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rooms {
    pub(crate) head: usize,
    pub(crate) tail: usize,
}

/// See the module.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) commons: Arc<Commons>,
    pub(crate) servers: Vec<Server<Seeded>>,
    pub(crate) counters: Vec<Arc<Counters>>,
    pub(crate) now: Now,
    pub(crate) rooms: Rooms,
    /// Whether sockets are opened when all other effects of a call were carried out, and not at once.
    pub(crate) opens_later: bool,
    /// How the next sockets turn out; those after them are opened.
    pub(crate) failures: VecDeque<Option<RelayFailure>>,
    sockets: BTreeMap<(usize, u32, u32, u8), (RelayId, Socket)>,
    /// The last generation of each place and family.
    generations: HashMap<(usize, u32, u8), u32>,
    connections: HashMap<ConnectionId, RelayId>,
    next_link: u64,
    next_port: u16,
    clients: u32,
}

/// The settings that tests begin with.
pub(crate) fn config() -> Config {
    Config {
        realm: REALM.to_owned(),
        secrets: Arc::new(Secrets::new(vec![SECRET.as_bytes().to_vec()])),
        relay_addresses: [RELAY_V4, RELAY_V6].map(relay_address).to_vec(),
        default_lifetime: Duration::from_secs(600),
        max_lifetime: Duration::from_secs(3600),
        policy: Arc::new(policy()),
        quotas: Quotas {
            allocations_per_user: 12,
            allocations_total: 10_000,
            permissions_per_allocation: 64,
            channels_per_allocation: 64,
            bandwidth_per_user: None,
            unauthenticated_per_prefix: 1000,
        },
        tcp_relay: false,
        unsafe_identifiers: false,
    }
}

/// The policy that tests begin with: networks for documentation are where peers live.
pub(crate) fn policy() -> PeerPolicy {
    let networks = ["198.51.100.0/24", "2001:db8:5::/48"];
    PeerPolicy {
        allow: networks.map(|network| network.parse().unwrap()).to_vec(),
        ..PeerPolicy::default()
    }
}

pub(crate) fn relay_address(address: &str) -> RelayAddress {
    let address = address.parse().unwrap();
    RelayAddress {
        bind: address,
        advertised: address,
    }
}

pub(crate) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl World {
    /// One server with the settings of [`config`].
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    /// One server with settings that `change` changes.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        Self::of(1, config, 50_000..=50_999, 1)
    }

    /// Two servers that share a `Commons`.
    pub(crate) fn two() -> Self {
        Self::of(2, config(), 50_000..=50_999, 1)
    }

    pub(crate) fn of(
        servers: usize,
        config: Config,
        ports: std::ops::RangeInclusive<u16>,
        seed: u64,
    ) -> Self {
        let mut random = Seeded::new(seed);
        let commons = Arc::new(Commons::new(&config.relay_addresses, ports, &mut random));
        let counters: Vec<_> = (0..servers)
            .map(|_| Arc::new(Counters::default()))
            .collect();
        let shared = Arc::new(config.clone());
        let servers = counters.iter().map(|counters| {
            let random = Seeded::new(random.next());
            Server::new(shared.clone(), commons.clone(), counters.clone(), random)
        });
        Self {
            servers: servers.collect(),
            config,
            commons,
            counters,
            now: Now {
                time: START,
                unix_seconds: 1_800_000_000,
            },
            rooms: Rooms {
                head: HEADROOM,
                tail: TAILROOM,
            },
            opens_later: false,
            failures: VecDeque::new(),
            sockets: BTreeMap::new(),
            generations: HashMap::new(),
            connections: HashMap::new(),
            next_link: 1000,
            next_port: 1024,
            clients: 0,
        }
    }

    /// A 5-tuple that no other client has, over UDP and IPv4.
    pub(crate) fn five_tuple(&mut self) -> FiveTuple {
        self.five_tuple_over(Transport::Udp, Family::V4)
    }

    /// A 5-tuple that no other client has.
    pub(crate) fn five_tuple_over(&mut self, transport: Transport, family: Family) -> FiveTuple {
        self.clients += 1;
        self.next_port += 1;
        let [.., high, low] = self.clients.to_be_bytes();
        let ip: IpAddr = match family {
            Family::V4 => [192, 0, high + 2, low].into(),
            Family::V6 => [0x2001, 0xdb8, 1, 0, 0, 0, high.into(), low.into()].into(),
        };
        let link = match transport {
            Transport::Udp => Link(1),
            Transport::Tcp | Transport::Tls | Transport::Dtls => {
                self.next_link += 1;
                Link(self.next_link)
            }
        };
        FiveTuple {
            client: SocketAddr::new(ip, self.next_port),
            link,
            transport,
        }
    }

    /// Moves both clocks, and nothing else: no server is told.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let before = self.now.time.as_nanos() / 1_000_000_000;
        self.now.time = self.now.time + duration;
        let after = self.now.time.as_nanos() / 1_000_000_000;
        self.now.unix_seconds += after - before;
    }

    /// Moves both clocks, and tells each server whenever it wants to be told.
    pub(crate) fn advance(&mut self, duration: Duration) -> Outcome {
        let end = self.now.time + duration;
        let mut outcome = Outcome::default();
        loop {
            let timeouts = self.servers.iter().filter_map(Server::next_timeout);
            let next = timeouts.min().filter(|next| *next <= end);
            self.pass(next.unwrap_or(end).since(self.now.time));
            outcome.append(self.tick());
            if next.is_none() {
                return outcome;
            }
        }
    }

    /// Lets all servers end what has expired.
    pub(crate) fn tick(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for server in 0..self.servers.len() {
            let mut effects = Effects::new();
            self.servers[server].handle_timeout(self.now, &mut effects);
            outcome.append(self.carry_out(server, &effects, &[]));
            let next = self.servers[server].next_timeout();
            assert!(
                next.is_none_or(|next| next > self.now.time),
                "what was due is done: no second call is wanted at once"
            );
        }
        outcome
    }

    /// A packet comes from a client.
    pub(crate) fn client_says(
        &mut self,
        server: usize,
        client: FiveTuple,
        bytes: &[u8],
    ) -> Outcome {
        self.client_says_marked(server, client, bytes, 0)
    }

    /// A packet comes from a client with a traffic class in its IP header.
    pub(crate) fn client_says_marked(
        &mut self,
        server: usize,
        client: FiveTuple,
        bytes: &[u8],
        traffic_class: u8,
    ) -> Outcome {
        let mut buffer = Buffer::new(bytes, self.rooms);
        let mut effects = Effects::new();
        let now = self.now;
        self.servers[server].client_packet(
            client,
            buffer.packet(),
            traffic_class,
            now,
            &mut effects,
        );
        buffer.check();
        for effect in effects.list() {
            if let Effect::SendToClient {
                client: to,
                purpose: Purpose::Answer,
                ..
            } = effect
            {
                assert_eq!(*to, client, "only who asks is answered");
            }
        }
        assert!(
            effects.list().len() <= 6,
            "one packet has few effects: {effects:?}"
        );
        self.carry_out(server, &effects, &buffer.bytes)
    }

    /// A datagram comes from a peer to a relayed transport address, as advertised.
    #[track_caller]
    pub(crate) fn peer_says(
        &mut self,
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: &[u8],
    ) -> Outcome {
        self.peer_says_marked(relayed, peer, payload, 0)
    }

    #[track_caller]
    pub(crate) fn peer_says_marked(
        &mut self,
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: &[u8],
        traffic_class: u8,
    ) -> Outcome {
        let (server, relay) = self.relay(relayed).expect("a socket is open there");
        self.peer_says_to(server, relay, peer, payload, traffic_class)
    }

    /// A datagram comes to a socket that may be closed.
    pub(crate) fn peer_says_to(
        &mut self,
        server: usize,
        relay: RelayId,
        peer: SocketAddr,
        payload: &[u8],
        traffic_class: u8,
    ) -> Outcome {
        let mut buffer = Buffer::new(payload, self.rooms);
        let mut effects = Effects::new();
        let now = self.now;
        self.servers[server].peer_packet(
            relay,
            peer,
            buffer.packet(),
            traffic_class,
            now,
            &mut effects,
        );
        buffer.check();
        assert!(
            effects.list().len() <= 1,
            "one datagram in, one out at most: {effects:?}"
        );
        self.carry_out(server, &effects, &buffer.bytes)
    }

    /// An ICMP error comes about a datagram from a relayed transport address.
    #[track_caller]
    pub(crate) fn icmp(&mut self, relayed: SocketAddr, error: IcmpError) -> Outcome {
        let (server, relay) = self.relay(relayed).expect("a socket is open there");
        let mut effects = Effects::new();
        self.servers[server].peer_unreachable(relay, error, self.now, &mut effects);
        self.carry_out(server, &effects, &[])
    }

    pub(crate) fn client_closed(&mut self, server: usize, client: FiveTuple) -> Outcome {
        let mut effects = Effects::new();
        self.servers[server].client_closed(client, &mut effects);
        self.carry_out(server, &effects, &[])
    }

    pub(crate) fn peer_connected(
        &mut self,
        server: usize,
        relay: RelayId,
        connection: ConnectionId,
    ) -> Outcome {
        // it may be made although its allocation has ended meanwhile
        self.connections.insert(connection, relay);
        let mut effects = Effects::new();
        self.servers[server].peer_connected(relay, connection, self.now, &mut effects);
        self.carry_out(server, &effects, &[])
    }

    pub(crate) fn peer_connect_failed(
        &mut self,
        server: usize,
        relay: RelayId,
        connection: ConnectionId,
        failure: ConnectFailure,
    ) -> Outcome {
        self.connections.remove(&connection);
        let mut effects = Effects::new();
        self.servers[server].peer_connect_failed(relay, connection, failure, &mut effects);
        self.carry_out(server, &effects, &[])
    }

    /// A peer connects to a relayed transport address.
    #[track_caller]
    pub(crate) fn peer_accepted(
        &mut self,
        relayed: SocketAddr,
        peer: SocketAddr,
    ) -> (Option<ConnectionId>, Outcome) {
        let (server, relay) = self.relay(relayed).expect("a socket is open there");
        let mut effects = Effects::new();
        let connection = self.servers[server].peer_accepted(relay, peer, self.now, &mut effects);
        if let Some(connection) = connection {
            self.connections.insert(connection, relay);
        }
        (connection, self.carry_out(server, &effects, &[]))
    }

    pub(crate) fn peer_connection_closed(&mut self, server: usize, connection: ConnectionId) {
        let relay = self.connections.remove(&connection);
        let relay = relay.expect("the connection was open");
        self.servers[server].peer_connection_closed(relay, connection);
    }

    /// Gives all servers new settings.
    pub(crate) fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) -> Outcome {
        change(&mut self.config);
        let config = Arc::new(self.config.clone());
        let mut outcome = Outcome::default();
        for server in 0..self.servers.len() {
            let mut effects = Effects::new();
            self.servers[server].reconfigure(config.clone(), &mut effects);
            outcome.append(self.carry_out(server, &effects, &[]));
        }
        outcome
    }

    /// Ends all allocations of all servers.
    pub(crate) fn close(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for server in 0..self.servers.len() {
            let mut effects = Effects::new();
            self.servers[server].close(&mut effects);
            outcome.append(self.carry_out(server, &effects, &[]));
        }
        outcome
    }

    /// Allocations of all servers, as these count them.
    pub(crate) fn allocations(&self) -> usize {
        let count: usize = self.servers.iter().map(Server::allocations).sum();
        assert_eq!(
            u32::try_from(count).unwrap(),
            self.commons.allocations(),
            "the servers together and what they share count the same"
        );
        count
    }

    /// Sockets that are open now.
    pub(crate) fn open_sockets(&self) -> impl Iterator<Item = (usize, RelayId, Socket)> {
        let sockets = self.sockets.iter();
        sockets.map(|((server, ..), (relay, socket))| (*server, *relay, *socket))
    }

    /// The socket behind an address that clients are told.
    pub(crate) fn relay(&self, advertised: SocketAddr) -> Option<(usize, RelayId)> {
        self.open_sockets()
            .find(|(.., socket)| socket.advertised == advertised)
            .map(|(server, relay, _)| (server, relay))
    }

    /// How often all servers dropped something for that reason.
    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.counters
            .iter()
            .map(|counters| counters.drops.get(reason))
            .sum()
    }

    /// Carries out effects as whoever does input and output would, and asserts what holds for all of them.
    fn carry_out(&mut self, server: usize, effects: &Effects, buffer: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut to_open = Vec::new();
        for effect in effects.list() {
            outcome.effects.push(effect.clone());
            match effect {
                Effect::SendToClient {
                    client,
                    data,
                    purpose,
                    traffic_class,
                } => {
                    let bytes = bytes_of(data, effects, buffer);
                    outcome
                        .to_clients
                        .push(read_message(*client, bytes, *purpose, *traffic_class));
                }
                Effect::SendToPeer {
                    relay,
                    peer,
                    data,
                    dont_fragment,
                    traffic_class,
                } => {
                    let socket = self.socket(server, *relay);
                    assert_eq!(socket.kind, RelayKind::Udp);
                    assert_eq!(socket.bound.is_ipv4(), peer.is_ipv4(), "one family");
                    self.check_peer(*peer);
                    let payload = bytes_of(data, effects, buffer);
                    outcome.to_peers.push(ToPeer {
                        from: socket.advertised,
                        peer: *peer,
                        payload: payload.to_vec(),
                        dont_fragment: *dont_fragment,
                        traffic_class: *traffic_class,
                    });
                }
                Effect::OpenRelay {
                    relay,
                    address,
                    kind,
                } => {
                    if self.opens_later {
                        to_open.push((*relay, *address, *kind));
                    } else {
                        let later = self.open(server, *relay, *address, *kind, &mut outcome);
                        outcome.append(later);
                    }
                }
                Effect::CloseRelay { relay } => {
                    let closed = self.sockets.remove(&key(server, *relay));
                    let (_, socket) = closed.expect("what is closed was open");
                    self.connections.retain(|_, of| of != relay);
                    outcome.closed.push(socket);
                }
                Effect::ConnectToPeer {
                    relay,
                    peer,
                    connection,
                } => {
                    let socket = self.socket(server, *relay);
                    assert_eq!(socket.kind, RelayKind::Tcp);
                    assert_eq!(socket.bound.is_ipv4(), peer.is_ipv4(), "one family");
                    // another client's relayed address for TCP, or what any packet may go to
                    if !self.open_sockets().any(|(.., socket)| {
                        socket.kind == RelayKind::Tcp && socket.advertised == *peer
                    }) {
                        self.check_peer(*peer);
                    }
                    let before = self.connections.insert(*connection, *relay);
                    assert!(before.is_none(), "connections have different numbers");
                    outcome.connects.push((*relay, *peer, *connection));
                }
                Effect::JoinConnections { client, connection } => {
                    assert!(client.transport.is_stream());
                    assert!(self.connections.contains_key(connection), "it is open");
                    outcome.joined.push((*client, *connection));
                }
                Effect::ClosePeerConnection { connection } => {
                    let closed = self.connections.remove(connection);
                    assert!(closed.is_some(), "what is closed was open");
                    outcome.closed_connections.push(*connection);
                }
                Effect::Authenticated { client } => {
                    assert_ne!(client.transport, Transport::Udp);
                    outcome.authenticated.push(*client);
                }
                Effect::AllocationEnded { client } => {
                    assert_ne!(client.transport, Transport::Udp);
                    outcome.ended.push(*client);
                }
            }
        }
        for (relay, address, kind) in to_open {
            let later = self.open(server, relay, address, kind, &mut outcome);
            outcome.append(later);
        }
        outcome
    }

    fn open(
        &mut self,
        server: usize,
        relay: RelayId,
        address: SocketAddr,
        kind: RelayKind,
        outcome: &mut Outcome,
    ) -> Outcome {
        let configured = self.config.relay_addresses.iter();
        let configured = configured
            .copied()
            .find(|configured| configured.bind == address.ip())
            .expect("sockets are bound to configured addresses");
        assert_eq!(relay.family, Family::of(address.ip()));
        assert!(
            self.open_sockets()
                .all(|(.., socket)| socket.bound != address),
            "no other allocation has the port"
        );
        let mut effects = Effects::new();
        if let Some(failure) = self.failures.pop_front().flatten() {
            self.servers[server].relay_failed(relay, failure, self.now, &mut effects);
        } else {
            let socket = Socket {
                bound: address,
                advertised: SocketAddr::new(configured.advertised, address.port()),
                kind,
            };
            let place = (server, relay.slot, relay.family.number());
            let last = self.generations.insert(place, relay.generation);
            assert!(
                last.is_none_or(|last| last < relay.generation),
                "no socket has the name of another one, also if that is closed"
            );
            self.sockets.insert(key(server, relay), (relay, socket));
            outcome.opened.push(socket);
            self.servers[server].relay_opened(relay, &mut effects);
        }
        self.carry_out(server, &effects, &[])
    }

    fn socket(&self, server: usize, relay: RelayId) -> Socket {
        let found = self.sockets.get(&key(server, relay));
        found.expect("the socket is open").1
    }

    /// What no packet of the relay may go to, whatever is configured.
    fn check_peer(&self, peer: SocketAddr) {
        assert_ne!(peer.port(), 0);
        assert!(!peer.ip().is_unspecified() && !peer.ip().is_multicast());
        assert_eq!(
            peer.ip(),
            peer.ip().to_canonical(),
            "addresses are canonical"
        );
        let relays = self.config.relay_addresses.iter();
        for relay in relays {
            assert!(
                peer.ip() != relay.advertised || self.config.policy.names(peer),
                "relayed addresses are reached straight across"
            );
        }
        assert!(self.config.policy.permits(peer), "the policy allows it");
    }
}

fn key(server: usize, relay: RelayId) -> (usize, u32, u32, u8) {
    (server, relay.slot, relay.generation, relay.family.number())
}

fn bytes_of<'a>(data: &Data, effects: &'a Effects, buffer: &'a [u8]) -> &'a [u8] {
    match data {
        Data::Packet(range) => &buffer[range.clone()],
        Data::Scratch(range) => &effects.scratch()[range.clone()],
    }
}

#[track_caller]
fn read_message(client: FiveTuple, bytes: &[u8], purpose: Purpose, traffic_class: u8) -> ToClient {
    let message = match bytes {
        [0..=3, ..] => {
            let decoded = Decoded::judge(bytes);
            let answer = decoded.class != MessageClass::Indication;
            assert!(
                answer || purpose == Purpose::Relayed || !decoded.has(super::stun::attribute::DATA)
            );
            assert!(!answer || purpose == Purpose::Answer);
            FromServer::Stun(decoded)
        }
        [0x40..=0x4F, _, high, low, rest @ ..] => {
            assert_eq!(purpose, Purpose::Relayed);
            let number = u16::from_be_bytes([bytes[0], bytes[1]]);
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let (data, padding) = rest.split_at(len);
            assert!(padding.len() < 4 && padding.iter().all(|byte| *byte == 0));
            if client.transport.is_stream() {
                assert_eq!(bytes.len() % 4, 0, "streams are padded, RFC 8656 §12.5");
            } else {
                assert!(padding.is_empty(), "datagrams need no padding");
            }
            FromServer::ChannelData(number, data.to_vec())
        }
        _ => panic!("neither STUN nor ChannelData: {bytes:02x?}"),
    };
    if purpose == Purpose::Answer || client.transport.is_stream() {
        assert_eq!(traffic_class, 0);
    }
    ToClient {
        client,
        message,
        purpose,
        traffic_class,
        len: bytes.len(),
    }
}

/// A packet between bytes that nobody may touch.
struct Buffer {
    bytes: Vec<u8>,
    packet: std::ops::Range<usize>,
    rooms: Rooms,
}

const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xA5;

impl Buffer {
    fn new(packet: &[u8], rooms: Rooms) -> Self {
        let start = GUARD + rooms.head;
        let end = start + packet.len();
        let mut bytes = vec![GUARD_BYTE; end + rooms.tail + GUARD];
        bytes[start..end].copy_from_slice(packet);
        Self {
            bytes,
            packet: start..end,
            rooms,
        }
    }

    fn packet(&mut self) -> Packet<'_> {
        let Rooms { head, tail } = self.rooms;
        Packet::with_rooms(&mut self.bytes, self.packet.clone(), head, tail)
    }

    fn check(&self) {
        let end = self.packet.end + self.rooms.tail;
        let around = self.bytes[..GUARD].iter().chain(&self.bytes[end..]);
        assert!(
            around.copied().all(|byte| byte == GUARD_BYTE),
            "nothing is written beyond the rooms around a packet"
        );
    }
}
