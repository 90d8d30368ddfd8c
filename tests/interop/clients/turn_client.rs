//! `turn-client-proto`, a client without sockets and clock of its own: so its time can be moved on by an hour while the
//! relay's stands still, and all that it refreshes in it is seen to be accepted.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;
use shared::clock::Clock;
use turn_client_proto::{
    api::{TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet},
    stun::{agent::Transmit, types::message::IntegrityAlgorithm},
    tcp::TurnClientTcp,
    types::{AddressFamily, Instant as ClientTime, TransportType, TurnCredentials},
    udp::TurnClientUdp,
};
use turn_client_rustls::TurnClientRustls;

use crate::{
    PATIENCE, PAUSE,
    relay::{Credential, Family, Place, Relay, RelayKind, Transport},
    requirements::say_skipped,
};

/// What is sent through, by length in bytes: with and without padding, and close to what a path carries.
const LENGTHS: [usize; 6] = [1, 4, 100, 171, 1200, 1400];

/// What RFC 8656 §12.5 has channel data padded to on TCP and TLS. This client (0.7.3) neither pads it nor expects it
/// padded there, so its channels get along without.
const PADDING: usize = 4;

/// Longer than a request is waited for, shorter than anything is valid.
const SOON: Duration = Duration::from_secs(40);

/// What passes for the client. It asks for half an hour, and so has to refresh its allocation twice.
const HOUR: Duration = Duration::from_hours(1);

#[test]
fn conversations_over_udp() {
    each_way(|relay, family, config| converse(Driver::over_udp(relay, family, config), config));
}

#[test]
fn conversations_over_tcp() {
    each_way(|relay, family, config| converse(Driver::over_tcp(relay, family, config), config));
}

#[test]
fn conversations_over_tls() {
    each_way(|relay, family, config| converse(Driver::over_tls(relay, family, config), config));
}

#[test]
fn a_client_that_deleted_its_allocation_can_make_another_from_the_same_port() {
    let Some(relay) = Relay::start(Place::Loopback) else {
        return;
    };
    if relay.kind == RelayKind::Coturn {
        say_skipped("coturn keeps the place of a deleted allocation for a while");
        return;
    }
    let mut driver = Driver::over_udp(&relay, Family::IPv4, &config("alice"));
    driver.wait_for_relayed(1);
    driver.delete();
    let Wire::Udp(socket) = driver.wire else {
        panic!("it is over UDP");
    };
    let server = relay.address(Transport::Udp, Family::IPv4);
    let mut driver = Driver::on_socket(socket, server, &config("alice"));
    driver.use_once();
}

#[test]
fn a_client_may_insist_on_sha_256() {
    let Some(relay) = Relay::start(Place::Loopback) else {
        return;
    };
    if relay.kind == RelayKind::Coturn {
        say_skipped("SHA-256: coturn has none of what RFC 8489 added to RFC 5389");
        return;
    }
    let mut config = config("alice");
    config.set_supported_integrity(IntegrityAlgorithm::Sha256);
    let mut driver = Driver::over_udp(&relay, Family::IPv4, &config);
    driver.use_once();
}

#[test]
fn a_client_that_offers_both_integrities_gets_on_with_either() {
    let Some(relay) = Relay::start(Place::Loopback) else {
        return;
    };
    let mut config = config("alice");
    config.add_supported_integrity(IntegrityAlgorithm::Sha256);
    let mut driver = Driver::over_udp(&relay, Family::IPv4, &config);
    driver.use_once();
}

/// Talks to the relay over IPv4 and IPv6, for an address of IPv4, of IPv6, and of both.
fn each_way(talk: impl Fn(&Relay, Family, &TurnConfig)) {
    let Some(relay) = Relay::start(Place::Loopback) else {
        return;
    };
    let ipv4 = config("alice");
    let mut ipv6 = config("alice");
    ipv6.set_address_family(AddressFamily::IPV6);
    let mut wanted = vec![ipv4.clone(), ipv6];
    if relay.kind == RelayKind::Coturn {
        say_skipped("one allocation of both families, which coturn has from a draft alone");
    } else {
        let mut both = ipv4;
        both.add_address_family(AddressFamily::IPV6);
        wanted.push(both);
    }
    for config in &wanted {
        for family in [Family::IPv4, Family::IPv6] {
            talk(&relay, family, config);
        }
    }
}

/// All that a client does with an allocation.
fn converse<C: TurnClientApi>(mut driver: Driver<C>, config: &TurnConfig) {
    let families = config.address_families();
    let relayed = driver.wait_for_relayed(families.len());
    let peers: Vec<_> = families
        .iter()
        .map(|family| match family {
            AddressFamily::IPV4 => Peer::at(Ipv4Addr::LOCALHOST.into()),
            AddressFamily::IPV6 => Peer::at(Ipv6Addr::LOCALHOST.into()),
        })
        .collect();
    for peer in &peers {
        driver.permit(peer);
    }
    // Send and Data indications
    for peer in &peers {
        driver.exchange(peer, &relayed);
    }
    // for one of them: this client (0.7.3) would take the same channel number for one of each family
    let [with_channel, ..] = peers.as_slice() else {
        panic!("there is a peer of each family");
    };
    driver.bind_channel(with_channel);
    for peer in &peers {
        driver.exchange(peer, &relayed);
    }

    for friend in peers.iter().filter(|peer| peer.address().is_ipv4()) {
        // who has no permission; the lengths are those of PADDING
        let stranger = Peer::at(Ipv4Addr::new(127, 0, 0, 2).into());
        let at = of_family_of(friend.address(), &relayed);
        stranger.send(b"stranger", at);
        friend.send(b"a friend", at);
        let (from, data) = driver.receive();
        assert_eq!((from, &*data), (friend.address(), &b"a friend"[..]));
    }

    // refreshes of allocation, permissions and channels
    driver.let_pass(HOUR);
    assert_eq!(driver.relayed(), relayed);
    for peer in &peers {
        driver.exchange(peer, &relayed);
    }

    driver.delete();
    for address in relayed {
        wait_until_closed(address);
    }
}

fn config(user: &str) -> TurnConfig {
    let Credential { username, password } = Credential::fresh(user);
    TurnConfig::new(TurnCredentials::new(&username, &password))
}

/// A client, the connection it has to the relay, and what came of it.
struct Driver<C> {
    client: C,
    wire: Wire,
    server: SocketAddr,
    local: SocketAddr,
    clock: Clock,
    started: Instant,
    /// How far the client's time is ahead.
    ahead: Duration,
    received: VecDeque<(SocketAddr, Vec<u8>)>,
    events: Vec<TurnEvent>,
    has_channels: bool,
    /// When the client wants to be asked again, or nothing when it has ended.
    next: Option<ClientTime>,
}

enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Driver<TurnClientUdp> {
    fn over_udp(relay: &Relay, family: Family, config: &TurnConfig) -> Self {
        let server = relay.address(Transport::Udp, family);
        let socket = UdpSocket::bind((server.ip(), 0)).expect("loopback has free ports");
        socket.connect(server).expect("the relay has an address");
        Self::on_socket(socket, server, config)
    }

    fn on_socket(socket: UdpSocket, server: SocketAddr, config: &TurnConfig) -> Self {
        let local = socket.local_addr().expect("it is bound");
        socket
            .set_read_timeout(Some(PAUSE))
            .expect("it is not zero");
        let client = TurnClientUdp::allocate(local, server, config.clone());
        Self::new(client, Wire::Udp(socket), local, server)
    }
}

impl Driver<TurnClientTcp> {
    fn over_tcp(relay: &Relay, family: Family, config: &TurnConfig) -> Self {
        let server = relay.address(Transport::Tcp, family);
        let (wire, local) = connect(server);
        let client = TurnClientTcp::allocate(local, server, config.clone());
        Self::new(client, wire, local, server)
    }
}

impl Driver<TurnClientRustls> {
    fn over_tls(relay: &Relay, family: Family, config: &TurnConfig) -> Self {
        let server = relay.address(Transport::Tls, family);
        let (wire, local) = connect(server);
        let client = TurnClientRustls::allocate(
            local,
            server,
            config.clone(),
            ServerName::IpAddress(server.ip().into()),
            relay.authority.client_config(),
        );
        Self::new(client, wire, local, server)
    }
}

impl<C: TurnClientApi> Driver<C> {
    fn new(client: C, wire: Wire, local: SocketAddr, server: SocketAddr) -> Self {
        let clock = Clock::system();
        let started = clock.now();
        Self {
            client,
            wire,
            server,
            local,
            clock,
            started,
            ahead: Duration::ZERO,
            received: VecDeque::new(),
            events: Vec::new(),
            has_channels: false,
            next: Some(ClientTime::ZERO),
        }
    }

    fn relayed(&self) -> Vec<SocketAddr> {
        self.client
            .relayed_addresses()
            .map(|(_, address)| address)
            .collect()
    }

    fn wait_for_relayed(&mut self, count: usize) -> Vec<SocketAddr> {
        self.wait_until("its addresses", |driver| driver.relayed().len() == count);
        self.relayed()
    }

    /// Gets an address, sends something and deletes it.
    fn use_once(&mut self) {
        let relayed = self.wait_for_relayed(1);
        let peer = Peer::at(Ipv4Addr::LOCALHOST.into());
        self.permit(&peer);
        self.exchange(&peer, &relayed);
        self.delete();
    }

    fn permit(&mut self, peer: &Peer) {
        let ip = peer.address().ip();
        let now = self.now();
        self.client
            .create_permission(TransportType::Udp, ip, now)
            .expect("it may be asked for");
        self.wait_until("a permission", |driver| {
            driver.took(|event| matches!(event, TurnEvent::PermissionCreated(_, of) if *of == ip))
        });
    }

    fn bind_channel(&mut self, peer: &Peer) {
        let address = peer.address();
        let now = self.now();
        self.client
            .bind_channel(TransportType::Udp, address, now)
            .expect("it may be asked for");
        self.wait_until("a channel", |driver| {
            driver.took(|event| matches!(event, TurnEvent::ChannelCreated(_, of) if *of == address))
        });
        self.has_channels = true;
    }

    /// Sends something of each length to the peer, which sends it back.
    fn exchange(&mut self, peer: &Peer, relayed: &[SocketAddr]) {
        let at = of_family_of(peer.address(), relayed);
        let is_padded = self.has_channels && matches!(self.wire, Wire::Tcp(_));
        for length in LENGTHS {
            if is_padded && !length.is_multiple_of(PADDING) {
                continue;
            }
            let sent: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            self.send(peer.address(), &sent);
            let (from, data) = peer.receive(self);
            assert_eq!(from, at);
            assert_eq!(data, sent);
            peer.send(&data, from);
            let (from, data) = self.receive();
            assert_eq!(from, peer.address());
            assert_eq!(data, sent);
        }
    }

    fn send(&mut self, to: SocketAddr, data: &[u8]) {
        let now = self.now();
        let transmit = self
            .client
            .send_to(TransportType::Udp, to, data, now)
            .expect("there is a permission");
        if let Some(transmit) = transmit {
            let transmit = transmit.build();
            self.wire.send(&transmit.data);
        }
    }

    fn receive(&mut self) -> (SocketAddr, Vec<u8>) {
        self.wait_until("data", |driver| !driver.received.is_empty());
        self.received.pop_front().expect("there is some")
    }

    /// Moves the client's time on by `duration`, from one of its timers to the next.
    fn let_pass(&mut self, duration: Duration) {
        let target = self.ahead + duration;
        while self.ahead < target {
            self.wait_until("an answer", |driver| {
                let now = driver.now();
                driver.next.is_some_and(|next| next > now + SOON)
            });
            let next = self.next.expect("it has not ended");
            self.ahead += next.duration_since(self.now());
        }
        self.wait_until("an answer", |driver| {
            let now = driver.now();
            driver.next.is_some_and(|next| next > now + SOON)
        });
    }

    fn delete(&mut self) {
        let now = self.now();
        self.client.delete(now).expect("there is an allocation");
        self.wait_until("the end", |driver| driver.next.is_none());
    }

    fn wait_until(&mut self, what: &str, condition: impl Fn(&mut Self) -> bool) {
        let end = self.clock.now() + PATIENCE;
        while !condition(self) {
            assert!(self.clock.now() < end, "the client waits for {what}");
            self.step();
        }
    }

    /// Does what the client wants, and waits a little for what the relay sends.
    fn step(&mut self) {
        self.flush();
        let mut buffer = vec![0; 65_536];
        let Some(length) = self.wire.receive(&mut buffer) else {
            self.poll();
            return;
        };
        buffer.truncate(length);
        let now = self.now();
        let transmit = Transmit::new(buffer, self.client.transport(), self.server, self.local);
        match self.client.recv(transmit, now) {
            // a second answer, when the client was impatient, is ignored
            TurnRecvRet::Handled | TurnRecvRet::Ignored(_) => {}
            TurnRecvRet::PeerData(data) => {
                self.received.push_back((data.peer, data.data().to_vec()));
            }
            odd @ TurnRecvRet::PeerIcmp { .. } => panic!("the relay sent something odd: {odd:?}"),
        }
        while let Some(data) = self.client.poll_recv(now) {
            self.received.push_back((data.peer, data.data().to_vec()));
        }
        self.poll();
    }

    fn poll(&mut self) {
        let now = self.now();
        self.next = match self.client.poll(now) {
            TurnPollRet::WaitUntil(next) => Some(next),
            TurnPollRet::Closed => None,
            odd @ (TurnPollRet::AllocateTcpSocket { .. } | TurnPollRet::TcpClose { .. }) => {
                panic!("the client wants something odd: {odd:?}")
            }
        };
        while let Some(event) = self.client.poll_event() {
            let has_failed = matches!(
                event,
                TurnEvent::AllocationCreateFailed(_)
                    | TurnEvent::PermissionCreateFailed(..)
                    | TurnEvent::ChannelCreateFailed(..)
            );
            assert!(!has_failed, "{event:?}");
            self.events.push(event);
        }
        self.flush();
    }

    fn flush(&mut self) {
        let now = self.now();
        while let Some(transmit) = self.client.poll_transmit(now) {
            self.wire.send(&transmit.data);
        }
    }

    /// Takes the first event that is wanted.
    fn took(&mut self, is_wanted: impl Fn(&TurnEvent) -> bool) -> bool {
        let place = self.events.iter().position(is_wanted);
        place.map(|place| self.events.remove(place)).is_some()
    }

    fn now(&self) -> ClientTime {
        let passed = self.clock.now().duration_since(self.started) + self.ahead;
        ClientTime::ZERO + passed
    }
}

impl Wire {
    fn send(&mut self, data: &[u8]) {
        match self {
            Self::Udp(socket) => {
                socket.send(data).expect("loopback takes it");
            }
            Self::Tcp(stream) => stream.write_all(data).expect("the relay is connected"),
        }
    }

    /// How many bytes came, if any did soon.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let result = match self {
            Self::Udp(socket) => socket.recv(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        };
        match result {
            Ok(0) if matches!(self, Self::Tcp(_)) => panic!("the relay has hung up"),
            Ok(length) => Some(length),
            Err(error) if is_silence(error.kind()) => None,
            Err(error) => panic!("the relay cannot be read from: {error}"),
        }
    }
}

/// Somebody without TURN.
struct Peer(UdpSocket);

impl Peer {
    fn at(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("loopback has free ports");
        socket
            .set_read_timeout(Some(PAUSE))
            .expect("it is not zero");
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    fn send(&self, data: &[u8], to: SocketAddr) {
        self.0.send_to(data, to).expect("loopback takes it");
    }

    /// What comes from the relay, while the client goes on.
    fn receive<C: TurnClientApi>(&self, driver: &mut Driver<C>) -> (SocketAddr, Vec<u8>) {
        let end = driver.clock.now() + PATIENCE;
        let mut buffer = vec![0; 65_536];
        loop {
            match self.0.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    buffer.truncate(length);
                    return (from, buffer);
                }
                Err(error) => assert!(is_silence(error.kind()), "{error}"),
            }
            assert!(driver.clock.now() < end, "nothing came to the peer");
            driver.step();
        }
    }
}

fn connect(server: SocketAddr) -> (Wire, SocketAddr) {
    let stream = TcpStream::connect(server).expect("the relay listens");
    stream
        .set_read_timeout(Some(PAUSE))
        .expect("it is not zero");
    let local = stream.local_addr().expect("it is connected");
    (Wire::Tcp(stream), local)
}

fn is_silence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn of_family_of(peer: SocketAddr, relayed: &[SocketAddr]) -> SocketAddr {
    *relayed
        .iter()
        .find(|address| address.is_ipv4() == peer.is_ipv4())
        .expect("there is one of each family")
}

/// Waits until what is sent to this address of loopback is refused.
fn wait_until_closed(address: SocketAddr) {
    let clock = Clock::system();
    let end = clock.now() + PATIENCE;
    let peer = Peer::at(address.ip());
    peer.0.connect(address).expect("loopback is connected");
    loop {
        let result = peer.0.send(b"?").and_then(|_| peer.0.recv(&mut [0; 16]));
        match result {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            Err(error) if is_silence(error.kind()) => {}
            other => panic!("{other:?}"),
        }
        assert!(clock.now() < end, "{address} is still open");
    }
}
