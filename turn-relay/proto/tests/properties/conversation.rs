//! What clients do, what the model says to it, and that the servers do the same.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use turn_relay_proto::{
    IcmpError, RelayFailure, Time,
    address::{Family, Transport},
    counters::{AllocationKind, Counters, Direction, Label as _, QuotaHit},
};

use crate::{
    model::{
        ALLOCATIONS_PER_USER, ALLOCATIONS_TOTAL, Allocation, CHANNEL, CHANNELS, Held, Model,
        PERMISSION, PERMISSIONS, RESERVATION, Relay, granted,
    },
    support::{
        client::{Client, Protection},
        random::Seeded,
        stun::{
            CHANNEL_BIND, CREATE_PERMISSION, Decoded, Draft, REFRESH, SEND, attribute, channel_data,
        },
        world::{FromServer, Outcome, RELAY_V4, RELAY_V6, Rooms, World, config, policy, socket},
    },
};

const FIRST_PORT: u16 = 50_000;
const LAST_PORT: u16 = 50_003;
const CLIENTS: usize = 6;

/// Peers in the world outside.
const PEERS: [&str; 6] = [
    "198.51.100.1:9",
    "198.51.100.1:10",
    "198.51.100.2:9",
    "198.51.100.3:9",
    "[2001:db8:5::1]:9",
    "[2001:db8:5::2]:9",
];
/// What no policy allows.
const DENIED: [&str; 3] = ["10.0.0.1:9", "[fd00::1]:9", "203.0.113.8:50000"];

/// A peer, by name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    Outside(usize),
    Denied(usize),
    /// Where another client is, if it has an address of that family; else a port that nobody has.
    Client(usize, Family),
}

/// Who somebody says to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    Right,
    None,
    WrongPassword,
    OtherUser,
    WrongNonce,
    Expired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Any,
    Even,
    Pair,
    Token,
    UnknownToken,
    TokenAndEven,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Nothing,
    Requested(u8),
    Additional(u8),
    BothAttributes,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Allocate {
        client: usize,
        credentials: Credentials,
        transport: Option<u8>,
        port: Port,
        families: Families,
        lifetime: Option<u32>,
    },
    AllocateAgain {
        client: usize,
    },
    Refresh {
        client: usize,
        credentials: Credentials,
        lifetime: Option<u32>,
        family: Option<u8>,
    },
    CreatePermission {
        client: usize,
        credentials: Credentials,
        peers: Vec<Peer>,
    },
    ChannelBind {
        client: usize,
        credentials: Credentials,
        number: u16,
        peer: Peer,
    },
    Send {
        client: usize,
        peer: Peer,
        len: usize,
        dont_fragment: bool,
    },
    SendOn {
        client: usize,
        number: u16,
        len: usize,
    },
    FromPeer {
        client: usize,
        peer: usize,
        len: usize,
    },
    Icmp {
        client: usize,
        peer: usize,
    },
    Pass {
        milliseconds: u64,
        told: bool,
    },
    CloseStream {
        client: usize,
    },
    Policy {
        narrow: bool,
    },
    SocketsFail {
        failures: Vec<bool>,
    },
    Habits {
        head: usize,
        tail: usize,
        opens_later: bool,
    },
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        12 => (0..4_usize).prop_map(Peer::Outside),
        3 => (4..PEERS.len()).prop_map(Peer::Outside),
        1 => (0..DENIED.len()).prop_map(Peer::Denied),
        8 => (0..CLIENTS).prop_map(|client| Peer::Client(client, Family::V4)),
        2 => (0..CLIENTS).prop_map(|client| Peer::Client(client, Family::V6)),
    ]
}

fn credentials() -> impl Strategy<Value = Credentials> {
    prop_oneof![
        40 => Just(Credentials::Right),
        1 => Just(Credentials::None),
        1 => Just(Credentials::WrongPassword),
        1 => Just(Credentials::OtherUser),
        1 => Just(Credentials::WrongNonce),
        1 => Just(Credentials::Expired),
    ]
}

fn lifetime() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(0)),
        3 => prop::sample::select(vec![1, 600, 601, 900, 3600, 3601, u32::MAX]).prop_map(Some),
    ]
}

fn number() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![0x4000, 0x4000, 0x4001, 0x4001, 0x4FFF, 0x3FFF, 0x5000])
}

/// Anything that anybody may do.
pub(crate) fn action() -> impl Strategy<Value = Action> {
    let client = 0..CLIENTS;
    let len = prop_oneof![0..40_usize, Just(1200), Just(9000)];
    let outside = prop_oneof![5 => 0..4_usize, 1 => 0..PEERS.len() + DENIED.len()];
    let port = prop_oneof![
        6 => Just(Port::Any),
        2 => Just(Port::Even),
        2 => Just(Port::Pair),
        3 => Just(Port::Token),
        1 => Just(Port::UnknownToken),
        1 => Just(Port::TokenAndEven),
    ];
    let families = prop_oneof![
        5 => Just(Families::Nothing),
        3 => (0..4_u8).prop_map(Families::Requested),
        4 => Just(Families::Additional(2)),
        1 => Just(Families::Additional(1)),
        1 => Just(Families::BothAttributes),
    ];
    let transport = prop_oneof![
        20 => Just(Some(17)),
        1 => Just(None),
        1 => Just(Some(6)),
        1 => Just(Some(132)),
    ];
    let passes = prop_oneof![
        16 => prop::sample::select(vec![1, 10, 999, 1000, 5000]),
        3 => prop::sample::select(vec![29_999, 30_000, 60_000]),
        1 => prop::sample::select(vec![299_999, 300_000, 300_001, 599_999, 600_000]),
    ];
    prop_oneof![
        6 => (client.clone(), credentials(), transport, port, families, lifetime()).prop_map(
            |(client, credentials, transport, port, families, lifetime)| Action::Allocate {
                client, credentials, transport, port, families, lifetime,
            }
        ),
        1 => client.clone().prop_map(|client| Action::AllocateAgain { client }),
        3 => (client.clone(), credentials(), lifetime(), prop::option::weighted(0.3, 0..4_u8)).prop_map(
            |(client, credentials, lifetime, family)| Action::Refresh {
                client, credentials, lifetime, family,
            }
        ),
        6 => (client.clone(), credentials(), prop::collection::vec(peer(), 0..4)).prop_map(
            |(client, credentials, peers)| Action::CreatePermission { client, credentials, peers }
        ),
        6 => (client.clone(), credentials(), number(), peer()).prop_map(
            |(client, credentials, number, peer)| Action::ChannelBind {
                client, credentials, number, peer,
            }
        ),
        9 => (client.clone(), peer(), len.clone(), any::<bool>()).prop_map(
            |(client, peer, len, dont_fragment)| Action::Send { client, peer, len, dont_fragment }
        ),
        9 => (client.clone(), number(), len.clone()).prop_map(
            |(client, number, len)| Action::SendOn { client, number, len }
        ),
        9 => (client.clone(), outside, len).prop_map(
            |(client, peer, len)| Action::FromPeer { client, peer, len }
        ),
        1 => (client.clone(), 0..PEERS.len()).prop_map(|(client, peer)| Action::Icmp { client, peer }),
        5 => (passes, prop::bool::weighted(0.7)).prop_map(
            |(milliseconds, told)| Action::Pass { milliseconds, told }
        ),
        1 => client.prop_map(|client| Action::CloseStream { client }),
        1 => prop::bool::weighted(0.2).prop_map(|narrow| Action::Policy { narrow }),
        1 => prop::collection::vec(any::<bool>(), 1..4).prop_map(|failures| Action::SocketsFail { failures }),
        1 => (0..60_usize, 0..6_usize, any::<bool>()).prop_map(
            |(head, tail, opens_later)| Action::Habits { head, tail, opens_later }
        ),
    ]
}

/// The servers, the clients and the model.
pub(crate) struct Conversation {
    world: World,
    model: Model,
    clients: Vec<Client>,
    nonces_from: Vec<Option<Time>>,
    narrow: bool,
    random: Seeded,
    /// What the last reservation was called.
    token: Option<Vec<u8>>,
}

/// What an Allocate request may come to.
struct Expectation {
    /// Codes that are right.
    errors: Vec<u16>,
    /// Whether success is right.
    success: bool,
}

impl Conversation {
    pub(crate) fn new(seed: u64) -> Self {
        let mut config = config();
        config.quotas.allocations_per_user = u32::try_from(ALLOCATIONS_PER_USER).unwrap();
        config.quotas.allocations_total = u32::try_from(ALLOCATIONS_TOTAL).unwrap();
        config.quotas.permissions_per_allocation = PERMISSIONS;
        config.quotas.channels_per_allocation = CHANNELS;
        config.quotas.unauthenticated_per_prefix = 10_000;
        let mut world = World::of(2, config, FIRST_PORT..=LAST_PORT, seed);
        let transports = [
            (Transport::Udp, Family::V4),
            (Transport::Udp, Family::V4),
            (Transport::Tcp, Family::V4),
            (Transport::Udp, Family::V6),
            (Transport::Tls, Family::V6),
            (Transport::Dtls, Family::V4),
        ];
        let clients = transports.into_iter().enumerate();
        let clients = clients.map(|(number, (transport, family))| {
            let user = ["alice", "bob"][number % 2];
            let client = Client::over(&mut world, user, transport, family);
            let client = client.protected_by(Protection::ALL[number % 3]);
            let expiry = world.now.unix_seconds + 1_000_000_000;
            client
                .with_username(&format!("{expiry}:{user}"))
                .on_server(number / 3)
        });
        let clients: Vec<_> = clients.collect();
        Self {
            nonces_from: vec![None; clients.len()],
            clients,
            world,
            model: Model::default(),
            narrow: false,
            random: Seeded::new(seed),
            token: None,
        }
    }

    fn now(&self) -> Time {
        self.world.now.time
    }

    /// Does one thing, and asserts that what comes of it is right.
    pub(crate) fn act(&mut self, action: &Action) {
        match action {
            Action::Allocate { .. } => self.allocate(action),
            Action::AllocateAgain { client } => self.allocate_again(*client),
            Action::Refresh {
                client,
                credentials,
                lifetime,
                family,
            } => self.refresh(*client, *credentials, *lifetime, *family),
            Action::CreatePermission {
                client,
                credentials,
                peers,
            } => {
                let peers: Vec<_> = peers.iter().map(|peer| self.address(*peer)).collect();
                self.create_permission(*client, *credentials, &peers);
            }
            Action::ChannelBind {
                client,
                credentials,
                number,
                peer,
            } => self.channel_bind(*client, *credentials, *number, self.address(*peer)),
            Action::Send {
                client,
                peer,
                len,
                dont_fragment,
            } => self.send(*client, self.address(*peer), *len, *dont_fragment),
            Action::SendOn {
                client,
                number,
                len,
            } => self.send_on(*client, *number, *len),
            Action::FromPeer { client, peer, len } => self.peer_says(*client, *peer, *len),
            Action::Icmp { client, peer } => self.icmp(*client, *peer),
            Action::Pass { milliseconds, told } => self.pass(*milliseconds, *told),
            Action::CloseStream { client } => self.close_stream(*client),
            Action::Policy { narrow } => self.change_policy(*narrow),
            Action::SocketsFail { failures } => {
                let failures = failures.iter().map(|in_use| {
                    Some(if *in_use {
                        RelayFailure::PortInUse
                    } else {
                        RelayFailure::Other
                    })
                });
                self.world.failures = failures.collect();
            }
            Action::Habits {
                head,
                tail,
                opens_later,
            } => {
                self.world.opens_later = *opens_later;
                self.world.rooms = Rooms {
                    head: *head,
                    tail: *tail,
                };
            }
        }
        self.check_counts();
    }

    /// Asserts that so much of everything has happened that the conversation says something.
    pub(crate) fn check_that_much_happened(&self) {
        let sum = |count: &dyn Fn(&Counters) -> u64| {
            let counters = self.world.counters.iter();
            counters.map(|counters| count(counters)).sum::<u64>()
        };
        for direction in Direction::ALL {
            let packets = sum(&|counters| counters.packets.get(*direction));
            assert!(packets >= 50, "{packets} packets {}", direction.label());
        }
        for quota in [
            QuotaHit::UserAllocations,
            QuotaHit::TotalAllocations,
            QuotaHit::Permissions,
            QuotaHit::Channels,
            QuotaHit::Ports,
        ] {
            let hits = sum(&|counters| counters.quota_hits.get(quota));
            assert!(hits >= 3, "{} was hit {hits} times", quota.label());
        }
        let made = |kind| sum(&|counters| counters.allocations_made.get(kind));
        let kinds = AllocationKind::ALL.iter().map(|kind| made(*kind));
        assert!(kinds.sum::<u64>() >= 100);
        assert!(made(AllocationKind::UdpDual) >= 10);
    }

    /// Lets everything end, and asserts that nothing is left of it and that every port can be had again.
    pub(crate) fn end(mut self) {
        self.world.failures.clear();
        if self.random.chance(50) {
            self.world.advance(Duration::from_secs(3601));
        } else {
            self.world.close();
            // what was held for a token, and ports that something else had
            self.world.advance(Duration::from_secs(60));
        }
        assert_eq!(self.world.allocations(), 0);
        assert_eq!(
            self.world.open_sockets().count(),
            0,
            "every socket was closed"
        );
        for server in &self.world.servers {
            assert_eq!(server.next_timeout(), None);
        }
        for counters in &self.world.counters {
            for kind in AllocationKind::ALL {
                let made = counters.allocations_made.get(*kind);
                assert_eq!(
                    made,
                    counters.allocations_ended.get(*kind),
                    "{}",
                    kind.label()
                );
            }
        }
        self.world.reconfigure(|config| {
            config.quotas.allocations_per_user = 1000;
            config.quotas.allocations_total = 1000;
        });
        for _ in FIRST_PORT..=LAST_PORT {
            Client::dual(&mut self.world, "alice");
        }
        for family in [1, 2] {
            let mut client = Client::new(&mut self.world, "alice");
            let request = Draft::allocate().family(family);
            client.call(&mut self.world, request).error(508);
        }
    }

    fn check_counts(&self) {
        let alive = self.model.allocations.len();
        let at_most = alive + self.model.untold.len();
        let counted = self.world.allocations();
        assert!(
            (alive..=at_most).contains(&counted),
            "{counted} allocations, and {alive} by the model"
        );
        for allocation in self.model.allocations.values() {
            for relay in &allocation.relays {
                assert!(
                    self.world.relay(relay.address).is_some(),
                    "its socket is open"
                );
            }
        }
    }

    fn address(&self, peer: Peer) -> SocketAddr {
        match peer {
            Peer::Outside(number) => socket(PEERS[number]),
            Peer::Denied(number) => socket(DENIED[number]),
            Peer::Client(client, family) => {
                let allocation = self.model.allocations.get(&client);
                let relay = allocation.and_then(|allocation| allocation.relay(family, self.now()));
                relay.map_or_else(
                    || {
                        let ip = match family {
                            Family::V4 => RELAY_V4,
                            Family::V6 => RELAY_V6,
                        };
                        SocketAddr::new(ip.parse().unwrap(), 40_000)
                    },
                    |relay| relay.address,
                )
            }
        }
    }

    fn is_own(ip: IpAddr) -> bool {
        [RELAY_V4, RELAY_V6].contains(&ip.to_string().as_str())
    }

    /// The policy of now, said once more.
    fn is_allowed(&self, ip: IpAddr) -> bool {
        let text = ip.to_string();
        Self::is_own(ip)
            || if self.narrow {
                text == "198.51.100.1" || text == "2001:db8:5::1"
            } else {
                text.starts_with("198.51.100.") || text.starts_with("2001:db8:5::")
            }
    }

    /// Signs and sends; the answer, checked for everything but what it says. Also who it was signed as.
    fn call(
        &mut self,
        number: usize,
        credentials: Credentials,
        draft: Draft,
    ) -> (Decoded, Client, Vec<u8>, Outcome) {
        let now = self.now();
        let too_old = |from: Time| now.since(from) > Duration::from_secs(50 * 60);
        if self.nonces_from[number].is_none_or(too_old) {
            self.clients[number].challenge(&mut self.world);
            self.nonces_from[number] = Some(now);
        }
        let mut client = self.clients[number].clone();
        let expiry = self.world.now.unix_seconds;
        match credentials {
            Credentials::Right | Credentials::None => {}
            Credentials::WrongPassword => client.password.push('x'),
            Credentials::OtherUser => {
                client = client.with_username(&format!("{}:mallory", expiry + 1_000_000_000));
            }
            Credentials::WrongNonce => client.nonce[20] ^= 1,
            Credentials::Expired => client = client.with_username(&format!("{expiry}:mallory")),
        }
        let bytes = if credentials == Credentials::None {
            draft.finish()
        } else {
            client.sign(draft)
        };
        let outcome = self
            .world
            .client_says(client.server, client.five_tuple, &bytes);
        let answer = outcome.stun().clone();
        if credentials == Credentials::None {
            assert_eq!(answer.hmac(), None);
        } else {
            client.check_answer(&bytes, &answer);
        }
        (answer, client, bytes, outcome)
    }

    /// The codes that are right for a request other than Allocate before its attributes are looked at.
    fn refusal(&self, client: usize, credentials: Credentials) -> Option<Vec<u16>> {
        let alive = self.model.alive(client, self.now());
        let username = &self.clients[client].username;
        let own = alive.is_some_and(|allocation| allocation.username == *username);
        match credentials {
            Credentials::None | Credentials::WrongPassword => Some(vec![401]),
            Credentials::WrongNonce => Some(vec![438]),
            Credentials::Right if alive.is_none() => Some(vec![437]),
            Credentials::Right if own => None,
            Credentials::Right => Some(vec![441]),
            Credentials::OtherUser => match alive {
                None => Some(vec![437]),
                Some(allocation) if allocation.user == "mallory" => {
                    // the same name, and another expiry unless it was in the same second
                    None
                }
                Some(_) => Some(vec![441]),
            },
            Credentials::Expired => match alive {
                None => Some(vec![401, 437]),
                Some(_) => Some(vec![441]),
            },
        }
    }

    /// Whether a request of somebody is refused because of who it is; asserts it.
    fn is_refused(
        &self,
        number: usize,
        credentials: Credentials,
        signed_by: &Client,
        answer: &Decoded,
    ) -> bool {
        let mut expected = self.refusal(number, credentials);
        if credentials == Credentials::OtherUser
            && let Some(allocation) = self.model.alive(number, self.now())
        {
            expected = (allocation.username != signed_by.username).then(|| vec![441]);
        }
        if let Some(codes) = &expected {
            let code = answer.code().unwrap_or(0);
            assert!(codes.contains(&code), "{codes:?} wanted, not {answer:?}");
        }
        expected.is_some()
    }

    fn allocate(&mut self, action: &Action) {
        let Action::Allocate {
            client,
            credentials,
            transport,
            port,
            families,
            lifetime,
        } = action
        else {
            return;
        };
        let now = self.now();
        let mut draft = Draft::request(crate::support::stun::ALLOCATE);
        if let Some(protocol) = transport {
            draft = draft.transport(*protocol);
        }
        let token = match port {
            Port::Any | Port::Even | Port::Pair => None,
            Port::Token | Port::TokenAndEven => {
                Some(self.token.clone().unwrap_or_else(|| vec![1; 8]))
            }
            Port::UnknownToken => Some(vec![2; 8]),
        };
        draft = match port {
            Port::Even | Port::TokenAndEven => draft.even_port(),
            Port::Pair => draft.even_port_and_next(),
            Port::Any | Port::Token | Port::UnknownToken => draft,
        };
        if let Some(token) = &token {
            draft = draft.token(token);
            self.world.failures.clear();
        }
        draft = match families {
            Families::Nothing => draft,
            Families::Requested(family) => draft.family(*family),
            Families::Additional(family) => draft.additional_family(*family),
            Families::BothAttributes => draft.family(1).additional_family(2),
        };
        if let Some(lifetime) = lifetime {
            draft = draft.lifetime(*lifetime);
        }
        let fails = !self.world.failures.is_empty();
        let existed = self.model.alive(*client, now).is_some();
        let somebody_else = matches!(credentials, Credentials::OtherUser | Credentials::Expired);
        let signed_as = if somebody_else {
            "mallory"
        } else {
            ["alice", "bob"][client % 2]
        };
        let expected = self.expect(action, token.as_deref(), existed, signed_as, fails);
        let (answer, signed_by, bytes, outcome) = self.call(*client, *credentials, draft);
        if fails {
            self.model.unsure_until = self.model.unsure_until.max(now + Duration::from_secs(2));
        }
        self.world.failures.clear();
        if let Some(code) = answer.code() {
            assert!(
                expected.errors.contains(&code),
                "{:?} wanted (success: {}), not {answer:?}",
                expected.errors,
                expected.success
            );
            for opened in &outcome.opened {
                assert!(
                    self.world.relay(opened.advertised).is_none(),
                    "nothing is left open"
                );
            }
            return;
        }
        assert!(
            expected.success,
            "{:?} wanted, not {answer:?}",
            expected.errors
        );
        self.check_success(action, &answer, token.as_deref(), &outcome);
        let seconds = granted(*lifetime);
        let relays = answer.relayed().into_iter().map(|address| Relay {
            address,
            expires: now + Duration::from_secs(seconds.into()),
        });
        if let Some(token) = &token {
            self.model.held.retain(|held| held.token != *token);
        }
        if let Some(token) = answer.value(attribute::RESERVATION_TOKEN) {
            let first = answer.relayed()[0];
            self.token = Some(token.to_vec());
            self.model.held.push(Held {
                address: SocketAddr::new(first.ip(), first.port() + 1),
                token: token.to_vec(),
                until: now + RESERVATION,
            });
        }
        self.model.untold.retain(|(of, _)| of != client);
        self.model.allocations.insert(
            *client,
            Allocation {
                user: signed_as.to_owned(),
                username: signed_by.username,
                relays: relays.collect(),
                permissions: std::collections::BTreeMap::new(),
                channels: std::collections::BTreeMap::new(),
                request: bytes,
                answer: answer.bytes,
                halved: false,
            },
        );
    }

    /// RFC 8656 §7.2, in its order.
    fn expect(
        &self,
        action: &Action,
        token: Option<&[u8]>,
        existed: bool,
        user: &str,
        fails: bool,
    ) -> Expectation {
        let Action::Allocate {
            client,
            credentials,
            transport,
            port,
            families,
            ..
        } = action
        else {
            unreachable!();
        };
        let only = |code| Expectation {
            errors: vec![code],
            success: false,
        };
        match credentials {
            Credentials::None | Credentials::WrongPassword => return only(401),
            Credentials::WrongNonce => return only(438),
            Credentials::Expired => {
                return Expectation {
                    errors: if existed { vec![401, 437] } else { vec![401] },
                    success: false,
                };
            }
            Credentials::Right | Credentials::OtherUser => {}
        }
        if existed {
            return only(437);
        }
        let now = self.now();
        let mut errors = Vec::new();
        let held = |token: &[u8]| {
            let mut held = self.model.held.iter();
            held.any(|held| held.token == token && now < held.until)
        };
        if transport.is_none() {
            errors.push(400);
        } else if *transport != Some(17) {
            errors.push(442);
        } else if token.is_some() && (*port == Port::TokenAndEven || *families != Families::Nothing)
        {
            errors.push(400);
        } else if token.is_some_and(|token| !held(token)) {
            errors.push(508);
        } else if *families == Families::BothAttributes {
            errors.push(400);
        } else if matches!(families, Families::Requested(0 | 3..)) {
            errors.push(440);
        } else if matches!(families, Families::Additional(1))
            || (*port == Port::Pair && matches!(families, Families::Additional(_)))
        {
            errors.push(400);
        }
        // "At any point": a quota may be what is said instead
        let allocations = self.model.allocations.values();
        let of_user = allocations
            .filter(|allocation| allocation.user == user)
            .count();
        // one that has expired is counted until the server is told, but not against who takes its place
        let untold = self.model.untold.iter().filter(|(of, _)| of != client);
        let untold_of_user = untold.clone().filter(|(_, of)| of == user).count();
        let total = self.model.allocations.len();
        let mut quota = Vec::new();
        if of_user + untold_of_user >= ALLOCATIONS_PER_USER {
            quota.push(486);
        }
        if total + untold.clone().count() >= ALLOCATIONS_TOTAL {
            quota.push(508);
        }
        let is_over = of_user >= ALLOCATIONS_PER_USER || total >= ALLOCATIONS_TOTAL;
        if !errors.is_empty() || is_over {
            errors.append(&mut quota);
            return Expectation {
                errors,
                success: false,
            };
        }
        errors.append(&mut quota);
        let wanted: &[&str] = match families {
            Families::Additional(_) => &[RELAY_V4, RELAY_V6],
            Families::Requested(2) => &[RELAY_V6],
            Families::Requested(_) | Families::Nothing | Families::BothAttributes => &[RELAY_V4],
        };
        let can = |ip: &&str| token.is_some() || self.has_port(ip, *port);
        let can_any = wanted.iter().any(can);
        let sure = self.model.is_sure(now) && !fails;
        if !sure || !can_any {
            errors.push(508);
        }
        Expectation {
            errors,
            success: !sure || can_any,
        }
    }

    fn has_port(&self, ip: &str, port: Port) -> bool {
        let taken = self.model.taken(ip.parse().unwrap(), self.now());
        let is_free = |port: u16| port <= LAST_PORT && !taken.contains(&port);
        (FIRST_PORT..=LAST_PORT).any(|number| {
            is_free(number)
                && match port {
                    Port::Even | Port::TokenAndEven => number % 2 == 0,
                    Port::Pair => number % 2 == 0 && is_free(number + 1),
                    Port::Any | Port::Token | Port::UnknownToken => true,
                }
        })
    }

    fn check_success(
        &self,
        action: &Action,
        answer: &Decoded,
        token: Option<&[u8]>,
        outcome: &Outcome,
    ) {
        let Action::Allocate {
            client,
            port,
            families,
            lifetime,
            ..
        } = action
        else {
            unreachable!();
        };
        let now = self.now();
        assert_eq!(answer.mapped(), self.clients[*client].five_tuple.client);
        assert_eq!(answer.lifetime(), granted(*lifetime));
        let relayed = answer.relayed();
        for address in &relayed {
            let mut opened = outcome.opened.iter();
            assert!(
                opened.any(|socket| socket.advertised == *address),
                "it was opened"
            );
            let (server, _) = self.world.relay(*address).expect("and is open");
            assert_eq!(server, self.clients[*client].server);
        }
        let wanted: &[Family] = match families {
            Families::Additional(_) => &[Family::V4, Family::V6],
            Families::Requested(2) => &[Family::V6],
            Families::Requested(_) | Families::Nothing | Families::BothAttributes => &[Family::V4],
        };
        if relayed.len() < wanted.len() {
            let value = answer
                .value(attribute::ADDRESS_ERROR_CODE)
                .expect("the reason");
            assert_eq!(value[2..4], [5, 8]);
            assert_ne!(value[0], Family::of(relayed[0].ip()).number());
            let missing = if value[0] == 1 { RELAY_V4 } else { RELAY_V6 };
            assert!(
                !self.model.is_sure(now)
                    || !self.has_port(missing, *port)
                    || !outcome.effects.is_empty()
            );
        } else {
            assert!(!answer.has(attribute::ADDRESS_ERROR_CODE));
        }
        assert_eq!(
            answer.has(attribute::RESERVATION_TOKEN),
            *port == Port::Pair
        );
        for address in &relayed {
            assert!(token.is_some() || wanted.contains(&Family::of(address.ip())));
            assert!((FIRST_PORT..=LAST_PORT).contains(&address.port()));
            let had = self.model.taken(address.ip(), now);
            if let Some(token) = token {
                let held = self.model.held.iter().find(|held| held.token == token);
                assert_eq!(held.expect("it was held").address, *address);
            } else {
                assert!(!had.contains(&address.port()), "nobody has it");
            }
            if matches!(port, Port::Even | Port::Pair) {
                assert_eq!(address.port() % 2, 0);
            }
        }
    }

    fn allocate_again(&mut self, number: usize) {
        let now = self.now();
        let Some(allocation) = self.model.alive(number, now).cloned() else {
            return;
        };
        let client = &self.clients[number];
        let outcome = self
            .world
            .client_says(client.server, client.five_tuple, &allocation.request);
        assert!(outcome.opened.is_empty());
        let again = outcome.stun();
        // its nonce may have become too old since
        if again.code() == Some(438) {
            let too_old = self.nonces_from[number];
            assert!(too_old.is_none_or(|from| now.since(from) >= Duration::ZERO));
            return;
        }
        if allocation.halved {
            assert!(again.is_success());
        } else {
            assert_eq!(again.bytes, allocation.answer, "it is answered alike");
        }
    }

    fn refresh(
        &mut self,
        number: usize,
        credentials: Credentials,
        lifetime: Option<u32>,
        family: Option<u8>,
    ) {
        let mut draft = Draft::request(REFRESH);
        if let Some(lifetime) = lifetime {
            draft = draft.lifetime(lifetime);
        }
        if let Some(family) = family {
            draft = draft.family(family);
        }
        let (answer, signed_by, _, outcome) = self.call(number, credentials, draft);
        if self.is_refused(number, credentials, &signed_by, &answer) {
            return;
        }
        let now = self.now();
        let allocation = self.model.alive_mut(number, now).expect("it is there");
        let wanted = |relay: &Relay| {
            family.is_none_or(|family| Family::of(relay.address.ip()).number() == family)
        };
        if let Some(family) = family
            && !allocation.relays.iter().any(wanted)
        {
            let code = answer.code();
            match family {
                1 | 2 => assert_eq!(code, Some(443), "{answer:?}"),
                _ => assert!(matches!(code, Some(400 | 440 | 443)), "{answer:?}"),
            }
            return;
        }
        let seconds = if lifetime == Some(0) {
            0
        } else {
            granted(lifetime)
        };
        assert_eq!(answer.clone().success().lifetime(), seconds);
        if seconds == 0 {
            for relay in allocation.relays.iter().filter(|relay| wanted(relay)) {
                let mut closed = outcome.closed.iter();
                assert!(closed.any(|socket| socket.advertised == relay.address));
            }
            allocation.relays.retain(|relay| !wanted(relay));
            allocation.halved = true;
            if allocation.relays.is_empty() {
                self.model.allocations.remove(&number);
            }
        } else {
            for relay in allocation.relays.iter_mut().filter(|relay| wanted(relay)) {
                relay.expires = now + Duration::from_secs(seconds.into());
            }
        }
    }

    fn create_permission(&mut self, number: usize, credentials: Credentials, peers: &[SocketAddr]) {
        let draft = Draft::request(CREATE_PERMISSION);
        let draft = peers.iter().fold(draft, |draft, peer| draft.peer(*peer));
        let (answer, signed_by, _, _) = self.call(number, credentials, draft);
        if self.is_refused(number, credentials, &signed_by, &answer) {
            return;
        }
        let now = self.now();
        let denied = peers.iter().any(|peer| !self.is_allowed(peer.ip()));
        let allocation = self.model.alive_mut(number, now).expect("it is there");
        let mut errors = Vec::new();
        if peers.is_empty() {
            errors.push(400);
        }
        let other_family =
            |peer: &SocketAddr| allocation.relay(Family::of(peer.ip()), now).is_none();
        if peers.iter().any(other_family) {
            errors.push(443);
        }
        if denied {
            errors.push(403);
        }
        let mut new: Vec<_> = peers.iter().map(SocketAddr::ip).collect();
        new.sort();
        new.dedup();
        new.retain(|ip| !allocation.permits(*ip, now));
        let too_many = allocation.permission_count(now) + new.len() > PERMISSIONS;
        let may_be_too_many = too_many && allocation.halved;
        if too_many {
            errors.push(508);
        }
        if let Some(code) = answer.code() {
            assert!(errors.contains(&code), "{errors:?} wanted, not {answer:?}");
            return;
        }
        let excused = may_be_too_many && errors == [508];
        assert!(
            errors.is_empty() || excused,
            "{errors:?} wanted, not {answer:?}"
        );
        for peer in peers {
            allocation.permissions.insert(peer.ip(), now + PERMISSION);
        }
    }

    fn channel_bind(
        &mut self,
        number: usize,
        credentials: Credentials,
        channel: u16,
        peer: SocketAddr,
    ) {
        let draft = Draft::request(CHANNEL_BIND).channel(channel).peer(peer);
        let (answer, signed_by, _, _) = self.call(number, credentials, draft);
        if self.is_refused(number, credentials, &signed_by, &answer) {
            return;
        }
        let now = self.now();
        let denied = !self.is_allowed(peer.ip());
        let allocation = self.model.alive_mut(number, now).expect("it is there");
        let mut errors = Vec::new();
        let bound_elsewhere = allocation
            .peer_of(channel, now)
            .is_some_and(|bound| bound != peer)
            || allocation
                .channel_to(peer, now)
                .is_some_and(|bound| bound != channel);
        if !(0x4000..=0x4FFF).contains(&channel) || bound_elsewhere {
            errors.push(400);
        }
        if allocation.relay(Family::of(peer.ip()), now).is_none() {
            errors.push(443);
        }
        if denied {
            errors.push(403);
        }
        let new_channel = allocation.peer_of(channel, now).is_none();
        let new_permission = !allocation.permits(peer.ip(), now);
        let too_many = (new_channel && allocation.channel_count(now) >= CHANNELS)
            || (new_permission && allocation.permission_count(now) >= PERMISSIONS);
        if too_many {
            errors.push(508);
        }
        if let Some(code) = answer.code() {
            let halved = allocation.halved && code == 400 && errors.is_empty();
            assert!(
                errors.contains(&code) || halved,
                "{errors:?} wanted, not {answer:?}"
            );
            return;
        }
        let excused = allocation.halved && (errors == [508]);
        assert!(
            errors.is_empty() || excused,
            "{errors:?} wanted, not {answer:?}"
        );
        allocation.permissions.insert(peer.ip(), now + PERMISSION);
        allocation.channels.insert(channel, (peer, now + CHANNEL));
    }

    /// Where a client's data for `peer` have to come out, if anywhere.
    fn check_sent(
        &self,
        number: usize,
        peer: Option<SocketAddr>,
        data: &[u8],
        dont_fragment: bool,
        class: u8,
        outcome: &Outcome,
    ) {
        let now = self.now();
        let expected = peer.and_then(|peer| {
            let allocation = self.model.alive(number, now)?;
            let relay = allocation.relay(Family::of(peer.ip()), now)?;
            let may = allocation.permits(peer.ip(), now) && self.is_allowed(peer.ip());
            may.then_some((peer, relay.address))
        });
        let Some((peer, from)) = expected else {
            return outcome.nothing();
        };
        let client = self.clients[number].five_tuple;
        if Self::is_own(peer.ip()) {
            let receiver = self.model.behind(peer, now);
            let receiver = receiver.filter(|(_, receiver)| receiver.permits(from.ip(), now));
            let Some((receiver_number, receiver)) = receiver else {
                return outcome.nothing();
            };
            let [to_client] = outcome.to_clients.as_slice() else {
                panic!("it goes straight across: {outcome:?}");
            };
            assert_eq!(to_client.client, self.clients[receiver_number].five_tuple);
            check_message(
                &to_client.message,
                receiver.channel_to(from, now),
                from,
                data,
            );
        } else {
            let datagram = outcome.to_peer();
            assert_eq!((datagram.from, datagram.peer), (from, peer));
            assert_eq!(datagram.payload, data);
            let translated = client.client.is_ipv6() || peer.is_ipv6();
            let counts = client.transport.is_stream() || !translated;
            assert_eq!(datagram.dont_fragment, dont_fragment && counts);
            if client.transport.is_stream() {
                assert_eq!(datagram.traffic_class, 0);
            } else {
                assert!([0, class].contains(&datagram.traffic_class));
            }
        }
    }

    fn send(&mut self, number: usize, peer: SocketAddr, len: usize, dont_fragment: bool) {
        let data = self.random.bytes(len);
        let mut draft = Draft::indication(SEND).peer(peer).data(&data);
        if dont_fragment {
            draft = draft.dont_fragment();
        }
        let class = self.traffic_class(number);
        let client = &self.clients[number];
        let outcome =
            self.world
                .client_says_marked(client.server, client.five_tuple, &draft.finish(), class);
        self.check_sent(number, Some(peer), &data, dont_fragment, class, &outcome);
    }

    fn send_on(&mut self, number: usize, channel: u16, len: usize) {
        let data = self.random.bytes(len);
        let class = self.traffic_class(number);
        let client = &self.clients[number];
        let outcome = self.world.client_says_marked(
            client.server,
            client.five_tuple,
            &channel_data(channel, &data),
            class,
        );
        let now = self.now();
        let allocation = self.model.alive(number, now);
        let peer = allocation.and_then(|allocation| allocation.peer_of(channel, now));
        self.check_sent(number, peer, &data, false, class, &outcome);
    }

    fn traffic_class(&mut self, number: usize) -> u8 {
        if self.clients[number].five_tuple.transport.is_stream() {
            0
        } else {
            self.random.bytes(1)[0]
        }
    }

    fn peer_says(&mut self, number: usize, peer: usize, len: usize) {
        let peer = if peer < PEERS.len() {
            socket(PEERS[peer])
        } else {
            socket(DENIED[peer - PEERS.len()])
        };
        let now = self.now();
        let family = Family::of(peer.ip());
        // also to a socket that is open although its time is over, if the servers were not told
        let relay = self.model.allocations.get(&number);
        let relay = relay.and_then(|allocation| {
            let mut relays = allocation.relays.iter();
            relays
                .find(|relay| Family::of(relay.address.ip()) == family)
                .copied()
        });
        let Some(relay) = relay else { return };
        let data = self.random.bytes(len);
        let outcome = self.world.peer_says(relay.address, peer, &data);
        let allocation = self.model.alive(number, now);
        let allocation = allocation.filter(|allocation| {
            now < relay.expires && allocation.permits(peer.ip(), now) && self.is_allowed(peer.ip())
        });
        let Some(allocation) = allocation else {
            return outcome.nothing();
        };
        let [to_client] = outcome.to_clients.as_slice() else {
            panic!("it is permitted: {outcome:?}");
        };
        assert_eq!(to_client.client, self.clients[number].five_tuple);
        check_message(
            &to_client.message,
            allocation.channel_to(peer, now),
            peer,
            &data,
        );
    }

    fn icmp(&mut self, number: usize, peer: usize) {
        let peer = socket(PEERS[peer]);
        let now = self.now();
        let Some(allocation) = self.model.alive(number, now) else {
            return;
        };
        let Some(relay) = allocation.relay(Family::of(peer.ip()), now) else {
            return;
        };
        let error = IcmpError {
            peer,
            kind: 3,
            code: 0,
            data: 0,
        };
        let may = allocation.permits(peer.ip(), now) && self.is_allowed(peer.ip());
        let outcome = self.world.icmp(relay.address, error);
        if may {
            assert_eq!(outcome.stun().peer(), peer);
            assert!(outcome.stun().has(attribute::ICMP));
        } else {
            outcome.nothing();
        }
    }

    fn pass(&mut self, milliseconds: u64, told: bool) {
        let duration = Duration::from_millis(milliseconds);
        if told {
            self.world.advance(duration);
            let now = self.now();
            self.model.expire(now);
            self.model.told();
        } else {
            self.world.pass(duration);
            let now = self.now();
            self.model.expire(now);
        }
    }

    fn close_stream(&mut self, number: usize) {
        let before = self.clients[number].five_tuple;
        if before.transport == Transport::Udp {
            return;
        }
        let outcome = self
            .world
            .client_closed(self.clients[number].server, before);
        outcome.silence();
        if let Some(allocation) = self.model.allocations.remove(&number) {
            for relay in allocation.relays {
                let mut closed = outcome.closed.iter();
                assert!(closed.any(|socket| socket.advertised == relay.address));
            }
        }
        self.model.untold.retain(|(of, _)| *of != number);
        // the next connection is another one
        let family = Family::of(before.client.ip());
        self.clients[number].five_tuple = self.world.five_tuple_over(before.transport, family);
        self.nonces_from[number] = None;
    }

    fn change_policy(&mut self, narrow: bool) {
        self.narrow = narrow;
        self.world.reconfigure(|config| {
            let mut policy = policy();
            if narrow {
                let networks = ["198.51.100.1/32", "2001:db8:5::1/128"];
                policy.allow = networks.map(|network| network.parse().unwrap()).to_vec();
            }
            config.policy = Arc::new(policy);
        });
    }
}

/// Asserts that data came in the form that the receiver's channels want.
#[track_caller]
fn check_message(message: &FromServer, channel: Option<u16>, from: SocketAddr, data: &[u8]) {
    match (message, channel) {
        (FromServer::ChannelData(number, received), Some(channel)) => {
            assert_eq!((*number, received.as_slice()), (channel, data));
        }
        (FromServer::Stun(message), None) => {
            assert_eq!(message.peer(), from);
            assert_eq!(message.data(), data);
        }
        _ => panic!("channel {channel:?}, and it came as {message:?}"),
    }
}
