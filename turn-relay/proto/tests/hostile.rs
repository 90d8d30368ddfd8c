//! Packets that nobody should send, by the hundred thousand: nothing panics, nothing is answered that should not be, and memory stays flat. And
//! packets as everybody sends them: relaying one takes nothing from the allocator.
//!
//! A panic is a defect of the relay, never of the packet. What is sent is drawn from a seed that a failure prints.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::duration_suboptimal_units, reason = "the RFCs count seconds")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
#[path = "support/mod.rs"]
mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    time::Duration,
};

use support::{
    client::{Client, Protection},
    random::Seeded,
    stun::{
        ALLOCATE, BINDING, CHANNEL_BIND, CONNECT, CONNECTION_BIND, CREATE_PERMISSION, DATA_METHOD,
        Decoded, Draft, MessageClass, Method, REFRESH, SEND, attribute, channel_data,
    },
    world::{FromServer, World, config, policy, socket},
};
use turn_relay_proto::{
    Data, Effect, Effects, FiveTuple, Packet,
    address::{Family, Link, Transport},
    packet::{HEADROOM, TAILROOM},
};

/// How often something is tried; less often without optimization.
const ROUNDS: usize = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};

/// Counts what each thread has of the system's memory, and how often it asked for some.
struct Counting;

thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // not while a thread is being taken down
    let _ = BYTES.try_with(|total| total.set(total.get() + bytes));
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

fn signed(size: usize) -> isize {
    isize::try_from(size).unwrap_or(isize::MAX)
}

// SAFETY: every call is handed to the system's allocator as it is; only numbers are kept beside it.
#[expect(unsafe_code, reason = "there is no other way to see what is allocated")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's duties are the same
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller's duties are the same
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(signed(size) - signed(layout.size()));
        // SAFETY: the caller's duties are the same
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn bytes_in_use() -> isize {
    BYTES.with(Cell::get)
}

fn calls() -> usize {
    CALLS.with(Cell::get)
}

/// Says what to draw again when a test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}

/// A relay whose packets are handed in without any of the world's bookkeeping, so that only the relay's memory is seen.
struct Bare {
    world: World,
    buffer: Vec<u8>,
    effects: Effects,
}

impl Bare {
    fn new(world: World) -> Self {
        Self {
            world,
            buffer: vec![0; HEADROOM + 65_555 + TAILROOM],
            effects: Effects::new(),
        }
    }

    /// Hands in a packet of a client; the effects are there until the next one.
    fn client_packet(&mut self, client: FiveTuple, packet: &[u8]) {
        self.effects.clear();
        let end = HEADROOM + packet.len();
        self.buffer[HEADROOM..end].copy_from_slice(packet);
        let packet = Packet::new(&mut self.buffer, HEADROOM..end);
        let now = self.world.now;
        self.world.servers[0].client_packet(client, packet, 0, now, &mut self.effects);
    }

    fn peer_packet(&mut self, relay: turn_relay_proto::RelayId, peer: SocketAddr, packet: &[u8]) {
        self.effects.clear();
        let end = HEADROOM + packet.len();
        self.buffer[HEADROOM..end].copy_from_slice(packet);
        let packet = Packet::new(&mut self.buffer, HEADROOM..end);
        let now = self.world.now;
        self.world.servers[0].peer_packet(relay, peer, packet, 0, now, &mut self.effects);
    }

    /// Asserts that there is nothing but one short answer to `client`.
    #[track_caller]
    fn check_stranger(&self, client: FiveTuple, request_len: usize) {
        match self.effects.list() {
            [] => {}
            [
                Effect::SendToClient {
                    client: to,
                    data: Data::Scratch(range),
                    ..
                },
            ] => {
                assert_eq!(*to, client);
                let answer = Decoded::judge(&self.effects.scratch()[range.clone()]);
                assert!(request_len >= 20);
                assert!(answer.bytes.len() <= 92, "{answer:?}");
            }
            effects => panic!("{effects:?}"),
        }
    }
}

fn stranger(random: &mut Seeded) -> FiveTuple {
    let transport = *random.pick(&[
        Transport::Udp,
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Dtls,
    ]);
    let bits = random.next().to_be_bytes();
    let client = if random.chance(70) {
        SocketAddr::from(([bits[0], bits[1], bits[2], bits[3]], 1024))
    } else {
        let [a, b, c, d, ..] = bits.map(u16::from);
        SocketAddr::from(([0x2a00 + a, b, c, d, a, b, c, d], 1024))
    };
    FiveTuple {
        client,
        link: Link(random.next() % 100),
        transport,
    }
}

/// A length: mostly short, now and then as long as can be.
fn length(random: &mut Seeded) -> usize {
    match random.below(100) {
        0 => random.below(65_536),
        1..=9 => random.below(1500),
        _ => random.below(120),
    }
}

#[test]
fn random_bytes_are_not_answered_and_leave_nothing_behind() {
    let seed = Seed(1);
    let mut random = Seeded::new(seed.0);
    let mut bare = Bare::new(World::new());
    let mut before = 0;
    for round in 0..ROUNDS {
        if round == ROUNDS / 10 {
            before = bytes_in_use();
        }
        let len = length(&mut random);
        let mut packet = random.bytes(len);
        if random.chance(80)
            && let Some(first) = packet.first_mut()
        {
            *first = *random.pick(&[0, 1, 0x40, 0x4F, 0x16]);
        }
        let client = stranger(&mut random);
        bare.client_packet(client, &packet);
        assert!(bare.effects.list().is_empty(), "{packet:02x?}");
        if round % 100 == 0 {
            bare.world.now.time = bare.world.now.time + Duration::from_millis(50);
        }
        drop(packet);
    }
    assert_eq!(bytes_in_use(), before, "memory is flat");
    assert_eq!(bare.world.allocations(), 0);
    assert_eq!(bare.world.servers[0].next_timeout(), None);
}

#[test]
fn random_messages_with_a_right_header_leave_nothing_behind() {
    let seed = Seed(2);
    let mut random = Seeded::new(seed.0);
    let mut bare = Bare::new(World::new());
    let mut before = 0;
    for round in 0..ROUNDS {
        if round == ROUNDS / 10 {
            before = bytes_in_use();
        }
        let len = length(&mut random) / 4 * 4;
        let mut packet = random.bytes(20 + len);
        packet[0] &= 0x3F;
        if random.chance(70) {
            packet[0] = 0;
            packet[1] = *random.pick(&[1, 3, 4, 6, 8, 9, 10, 11, 0x11, 0x16, 0x17]);
        }
        packet[2..4].copy_from_slice(&u16::try_from(len).unwrap_or(65_532).to_be_bytes());
        packet[4..8].copy_from_slice(&[0x21, 0x12, 0xA4, 0x42]);
        // attributes that fit, of types that mean something
        let mut at = 20;
        while random.chance(90) && at + 4 <= packet.len() {
            let number = known_or_not(&mut random);
            let left = packet.len() - at - 4;
            let value = if random.chance(50) {
                left.min(4)
            } else {
                random.below(left + 1)
            };
            packet[at..at + 2].copy_from_slice(&number.to_be_bytes());
            packet[at + 2..at + 4].copy_from_slice(&u16::try_from(value).unwrap().to_be_bytes());
            at += 4 + value.next_multiple_of(4);
        }
        let client = stranger(&mut random);
        bare.client_packet(client, &packet);
        bare.check_stranger(client, packet.len());
        if round % 10 == 0 {
            bare.world.now.time = bare.world.now.time + Duration::from_millis(50);
        }
    }
    bare.effects = Effects::new();
    let grown = bytes_in_use() - before;
    assert!(grown.abs() < 1024, "memory is flat: {grown} bytes");
    assert_eq!(bare.world.allocations(), 0);
}

fn known_or_not(random: &mut Seeded) -> u16 {
    use attribute as a;
    let known = [
        a::USERNAME,
        a::MESSAGE_INTEGRITY,
        a::CHANNEL_NUMBER,
        a::LIFETIME,
        a::XOR_PEER_ADDRESS,
        a::DATA,
        a::REALM,
        a::NONCE,
        a::REQUESTED_ADDRESS_FAMILY,
        a::EVEN_PORT,
        a::REQUESTED_TRANSPORT,
        a::DONT_FRAGMENT,
        a::MESSAGE_INTEGRITY_SHA256,
        a::PASSWORD_ALGORITHM,
        a::PASSWORD_ALGORITHMS,
        a::USERHASH,
        a::RESERVATION_TOKEN,
        a::CONNECTION_ID,
        a::ADDITIONAL_ADDRESS_FAMILY,
        a::SOFTWARE,
        a::FINGERPRINT,
        a::ERROR_CODE,
        a::XOR_RELAYED_ADDRESS,
        a::XOR_MAPPED_ADDRESS,
        a::UNKNOWN_OPTIONAL,
        a::UNKNOWN_REQUIRED[0],
    ];
    if random.chance(90) {
        *random.pick(&known)
    } else {
        u16::try_from(random.next() & 0xFFFF).unwrap()
    }
}

/// A world with everything switched on, and a client with allocation, permission and channel.
fn lively(transport: Transport, protection: Protection) -> (World, Client, SocketAddr) {
    let mut config = config();
    config.tcp_relay = true;
    config.quotas.permissions_per_allocation = 8;
    config.quotas.channels_per_allocation = 8;
    let mut world = World::of(1, config, 50_000..=50_099, 7);
    let client = Client::over(&mut world, "alice", transport, Family::V4);
    let mut client = client.protected_by(protection);
    let relayed = client.allocate(&mut world);
    client.permit(&mut world, socket("198.51.100.1:9"));
    client
        .bind(&mut world, 0x4000, socket("198.51.100.2:9"))
        .success();
    (world, client, relayed)
}

/// Messages of every kind, right ones.
fn corpus(client: &Client) -> Vec<Vec<u8>> {
    let peer = socket("198.51.100.1:9");
    let signed = [
        Draft::allocate().lifetime(900).dont_fragment(),
        Draft::allocate().even_port_and_next(),
        Draft::allocate().additional_family(2),
        Draft::allocate().token(&[1; 8]),
        Draft::request(ALLOCATE).transport(6),
        Draft::request(REFRESH).lifetime(900).family(1),
        Draft::request(CREATE_PERMISSION)
            .peer(peer)
            .peer(socket("198.51.100.3:9")),
        Draft::request(CHANNEL_BIND)
            .channel(0x4001)
            .peer(socket("198.51.100.3:9")),
        Draft::request(CONNECT).peer(peer),
        Draft::request(CONNECTION_BIND).connection_id(77),
    ];
    let mut corpus: Vec<_> = signed.into_iter().map(|draft| client.sign(draft)).collect();
    corpus.push(Draft::request(BINDING).fingerprint().finish());
    corpus.push(Draft::allocate().finish());
    corpus.push(
        Draft::indication(SEND)
            .peer(peer)
            .data(b"some data")
            .finish(),
    );
    corpus.push(
        Draft::indication(SEND)
            .peer(peer)
            .data(b"12")
            .dont_fragment()
            .fingerprint()
            .finish(),
    );
    corpus.push(channel_data(0x4000, b"some data"));
    corpus
}

/// One message, changed in some way.
fn mutate(random: &mut Seeded, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).clone();
    for _ in 0..=random.below(3) {
        match random.below(8) {
            0 if !bytes.is_empty() => {
                let bit = random.below(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            1 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] = *random.pick(&[0, 1, 0x7F, 0x80, 0xFF]);
            }
            2 => bytes.truncate(random.below(bytes.len() + 1)),
            3 => {
                let more = random.below(40);
                bytes.extend(random.bytes(more));
            }
            4 if bytes.len() > 26 => {
                // the length of something that may be an attribute
                let at = 22 + random.below((bytes.len() - 22) / 4) * 4;
                let value = *random.pick(&[0, 1, 4, 20, 0x7FFF, 0xFFFC, 0xFFFF_u16]);
                if at + 2 <= bytes.len() {
                    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
                }
            }
            5 if bytes.len() > 24 => {
                // a part of another message in the place of its own
                let other = random.pick(corpus);
                let from = random.below(other.len());
                let at = random.below(bytes.len());
                let len = random.below(other.len() - from).min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&other[from..from + len]);
            }
            6 => {
                let other = random.pick(corpus);
                bytes.extend_from_slice(other);
            }
            _ if bytes.len() >= 20 => {
                // the length that it should have by now
                let len = u16::try_from((bytes.len() - 20) & 0xFFFC).unwrap_or(0xFFFC);
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
            }
            _ => {}
        }
    }
    bytes
}

#[test]
fn changed_messages_do_no_harm() {
    for (number, protection) in Protection::ALL.into_iter().enumerate() {
        for transport in [Transport::Udp, Transport::Tcp] {
            let seed = Seed(100 + u64::try_from(number).unwrap());
            let mut random = Seeded::new(seed.0);
            let (mut world, mut client, relayed) = lively(transport, protection);
            let corpus = corpus(&client);
            for _ in 0..ROUNDS / 10 {
                let bytes = mutate(&mut random, &corpus);
                // the world asserts what holds for everything
                let outcome = client.put(&mut world, &bytes);
                for message in &outcome.to_clients {
                    assert_eq!(message.client, client.five_tuple);
                    assert!(
                        matches!(&message.message, FromServer::Stun(answer) if answer.class != MessageClass::Indication)
                    );
                }
                for (relay, _, connection) in outcome.connects {
                    world.peer_connected(0, relay, connection);
                    world.peer_connection_closed(0, connection);
                }
                assert!(world.allocations() <= 1);
            }
            let alive = world.relay(relayed).is_some();
            assert!(alive, "no change of an authentic message is authentic");
            client.refresh(&mut world, 600).success();
        }
    }
}

/// A value for an attribute: right ones, wrong ones, and ones that are nearly right.
fn value(random: &mut Seeded, number: u16) -> Vec<u8> {
    if random.chance(20) {
        let len = *random.pick(&[0, 1, 2, 3, 4, 5, 8, 9, 16, 20, 21, 32, 64, 200, 700]);
        return random.bytes(len);
    }
    match number {
        attribute::CHANNEL_NUMBER => vec![0x40, random.bytes(1)[0] & 0x0F, 0, 0],
        attribute::LIFETIME => random
            .pick(&[0, 1, 600, 3600, u32::MAX])
            .to_be_bytes()
            .to_vec(),
        attribute::XOR_PEER_ADDRESS => {
            let mut value = vec![0, 1];
            value.extend(random.bytes(2));
            // 198.51.100.0/24 and others, with the cookie on it
            let ip = [
                198,
                51,
                if random.chance(80) { 100 } else { 10 },
                random.bytes(1)[0] & 0x1F,
            ];
            let cookie = [0x21, 0x12, 0xA4, 0x42];
            value.extend((0..4).map(|at| ip[at] ^ cookie[at]));
            value
        }
        attribute::REQUESTED_ADDRESS_FAMILY | attribute::ADDITIONAL_ADDRESS_FAMILY => {
            vec![*random.pick(&[0, 1, 1, 2, 2, 3]), 0, 0, 0]
        }
        attribute::EVEN_PORT => vec![*random.pick(&[0, 0x80])],
        attribute::REQUESTED_TRANSPORT => vec![*random.pick(&[17, 17, 17, 6, 0]), 0, 0, 0],
        attribute::RESERVATION_TOKEN => random.bytes(8),
        attribute::CONNECTION_ID => random.bytes(4),
        attribute::DONT_FRAGMENT => Vec::new(),
        _ => {
            let len = random.below(40);
            random.bytes(len)
        }
    }
}

#[test]
fn authentic_requests_with_any_attributes_are_answered_once_and_bounded() {
    // whoever has credentials may ask for anything in any form
    for (number, protection) in Protection::ALL.into_iter().enumerate() {
        let seed = Seed(200 + u64::try_from(number).unwrap());
        let mut random = Seeded::new(seed.0);
        let mut config = config();
        config.tcp_relay = true;
        config.quotas.permissions_per_allocation = 8;
        config.quotas.channels_per_allocation = 8;
        config.quotas.allocations_per_user = 3;
        let mut world = World::of(1, config, 50_000..=50_019, 7);
        let mut clients: Vec<_> = [
            Transport::Udp,
            Transport::Udp,
            Transport::Tcp,
            Transport::Tls,
            Transport::Dtls,
        ]
        .into_iter()
        .map(|transport| {
            let client = Client::over(&mut world, "alice", transport, Family::V4);
            let mut client = client.protected_by(protection);
            client.challenge(&mut world);
            client
        })
        .collect();
        let methods = [
            ALLOCATE,
            ALLOCATE,
            REFRESH,
            CREATE_PERMISSION,
            CHANNEL_BIND,
            CONNECT,
            CONNECTION_BIND,
        ];
        for _ in 0..ROUNDS / 30 {
            let method = *random.pick(&methods);
            let mut draft = Draft::request(method);
            if random.chance(60) {
                draft = match method {
                    ALLOCATE => draft.transport(17),
                    CREATE_PERMISSION | CHANNEL_BIND | CONNECT => {
                        let value = value(&mut random, attribute::XOR_PEER_ADDRESS);
                        draft.with(attribute::XOR_PEER_ADDRESS, &value)
                    }
                    _ => draft,
                };
            }
            for _ in 0..random.below(5) {
                let number = known_or_not(&mut random);
                let protects = [
                    attribute::MESSAGE_INTEGRITY,
                    attribute::MESSAGE_INTEGRITY_SHA256,
                    attribute::FINGERPRINT,
                    attribute::USERNAME,
                    attribute::REALM,
                    attribute::NONCE,
                    attribute::PASSWORD_ALGORITHM,
                    attribute::PASSWORD_ALGORITHMS,
                ];
                if !protects.contains(&number) {
                    let value = value(&mut random, number);
                    draft = draft.with(number, &value);
                }
            }
            let at = random.below(clients.len());
            let client = &mut clients[at];
            let bytes = client.sign(draft);
            let outcome = client.put(&mut world, &bytes);
            match outcome.to_clients.as_slice() {
                [_] => {
                    let answer = outcome.stun().clone();
                    if answer.code() == Some(438) {
                        client.remember(&answer);
                    } else {
                        client.check_answer(&bytes, &answer);
                    }
                }
                [] => assert_eq!(outcome.connects.len(), 1, "{outcome:?}"),
                more => panic!("{more:?}"),
            }
            for (relay, _, connection) in outcome.connects {
                if random.chance(50) {
                    world.peer_connected(0, relay, connection);
                } else {
                    let failure = turn_relay_proto::ConnectFailure::Unreachable;
                    world.peer_connect_failed(0, relay, connection, failure);
                }
            }
            for (client, _) in outcome.joined {
                assert!(client.transport.is_stream());
            }
            if random.chance(5) {
                world.advance(Duration::from_secs(random.next() % 100));
            }
            assert!(world.allocations() <= 3);
            assert!(world.open_sockets().count() <= 6);
        }
        world.close();
        assert_eq!(world.allocations(), 0);
        assert_eq!(world.open_sockets().count(), 0);
    }
}

#[test]
fn the_longest_messages_are_answered_shortly_or_not_at_all() {
    let (mut world, client, _) = lively(Transport::Udp, Protection::Sha1);
    let many = |class: MessageClass, method: Method, number: &dyn Fn(u16) -> u16| {
        let mut message = Draft::new(class, method, 7);
        // written by hand: a message of 16,000 attributes is written in no time so
        let mut bytes = std::mem::replace(&mut message, Draft::request(BINDING)).finish();
        for at in 0..16_383 {
            bytes.extend_from_slice(&number(at).to_be_bytes());
            bytes.extend_from_slice(&[0, 0]);
        }
        bytes[2..4].copy_from_slice(&65_532_u16.to_be_bytes());
        bytes
    };
    for method in [
        BINDING,
        ALLOCATE,
        REFRESH,
        CREATE_PERMISSION,
        CHANNEL_BIND,
        SEND,
        DATA_METHOD,
        CONNECT,
    ] {
        for class in [MessageClass::Request, MessageClass::Indication] {
            for number in [
                &(|_| attribute::UNKNOWN_REQUIRED[0]) as &dyn Fn(u16) -> u16,
                &|at| 0x2000 + at % 0x5000,
                &|at| 0x9000 + at % 0x6000,
                &|_| attribute::XOR_PEER_ADDRESS,
                &|_| attribute::MESSAGE_INTEGRITY,
                &|_| attribute::FINGERPRINT,
                &|_| attribute::DATA,
                &|at| at,
            ] {
                let bytes = many(class, method, number);
                assert_eq!(bytes.len(), 65_552);
                let outcome = client.put(&mut world, &bytes);
                assert!(outcome.to_peers.is_empty());
                assert!(outcome.to_clients.iter().all(|message| message.len <= 92));
            }
        }
    }
    // many peers in one authentic request
    let mut draft = Draft::request(CREATE_PERMISSION);
    for host in 0..2000_u32 {
        let [.., high, low] = host.to_be_bytes();
        draft = draft.peer(SocketAddr::from(([198, 51, 100 + high, low], 9)));
    }
    let bytes = client.sign(draft);
    let answer = client.ask(&mut world, &bytes);
    assert!(matches!(answer.code(), Some(400 | 403 | 508)), "{answer:?}");
    // and one peer many times
    let mut draft = Draft::request(CREATE_PERMISSION);
    for _ in 0..2000 {
        draft = draft.peer(socket("198.51.100.77:9"));
    }
    let bytes = client.sign(draft);
    client.ask(&mut world, &bytes).success();
    // the longest data
    let outcome = client.send(&mut world, socket("198.51.100.1:9"), &vec![1; 65_500]);
    assert!(outcome.to_peers.len() <= 1);
    let outcome = client.send_on(&mut world, 0x4000, &vec![1; 65_535]);
    assert!(outcome.to_peers.len() <= 1);
}

#[test]
fn what_peers_send_is_relayed_or_dropped_whatever_it_is() {
    let seed = Seed(3);
    let mut random = Seeded::new(seed.0);
    let (mut world, client, relayed) = lively(Transport::Udp, Protection::Sha1);
    for _ in 0..ROUNDS / 10 {
        let peer = match random.below(4) {
            0 => socket("198.51.100.1:9"),
            1 => socket("198.51.100.2:9"),
            2 => socket("[::ffff:198.51.100.1]:9"),
            _ => stranger(&mut random).client,
        };
        let len = length(&mut random).min(65_507);
        let payload = random.bytes(len);
        let outcome = world.peer_says(relayed, peer, &payload);
        for message in &outcome.to_clients {
            assert_eq!(message.client, client.five_tuple);
            match &message.message {
                FromServer::Stun(message) => assert_eq!(message.data(), payload),
                FromServer::ChannelData(number, data) => {
                    assert_eq!((*number, data.as_slice()), (0x4000, payload.as_slice()));
                }
            }
        }
    }
}

#[test]
fn a_flood_of_strangers_from_everywhere_takes_no_memory() {
    let seed = Seed(4);
    let mut random = Seeded::new(seed.0);
    let mut bare = Bare::new(World::new());
    let requests = [
        Draft::request(BINDING).finish(),
        Draft::allocate().finish(),
        Draft::request(REFRESH).finish(),
        Draft::request(CREATE_PERMISSION).finish(),
    ];
    let signed_by_nobody = {
        let mut client = Client::new(&mut bare.world, "nobody");
        client.challenge(&mut bare.world);
        client.sign(Draft::allocate())
    };
    bare.client_packet(stranger(&mut random), &requests[1]);
    let (before, calls_before) = (bytes_in_use(), calls());
    let mut answered = 0;
    for round in 0..ROUNDS {
        let client = stranger(&mut random);
        let request = match random.below(5) {
            4 => &signed_by_nobody,
            at => &requests[at],
        };
        bare.client_packet(client, request);
        answered += bare.effects.list().len();
        if round % 10 == 0 {
            bare.world.now.time = bare.world.now.time + Duration::from_millis(20);
        }
    }
    assert!(
        answered > ROUNDS / 2,
        "it is answers that are measured: {answered}"
    );
    assert_eq!(bytes_in_use(), before, "memory is flat");
    assert_eq!(calls(), calls_before, "the allocator was not asked");
    assert_eq!(bare.world.allocations(), 0);
    assert_eq!(bare.world.servers[0].next_timeout(), None);
}

#[test]
fn allocations_that_come_and_go_leave_nothing_behind() {
    let mut world = World::of(1, config(), 50_000..=50_999, 1);
    let mut clients: Vec<_> = (0..50)
        .map(|number| {
            let username = format!("{}:user {number}", world.now.unix_seconds + 1_000_000_000);
            Client::new(&mut world, "").with_username(&username)
        })
        .collect();
    let mut before = 0;
    let rounds = ROUNDS / 1000 + 20;
    for round in 0..rounds {
        if round == 15 {
            before = bytes_in_use();
        }
        for client in &mut clients {
            client.challenge(&mut world);
            client
                .call(&mut world, Draft::allocate().additional_family(2))
                .success();
            client.permit(&mut world, socket("198.51.100.1:9"));
            client
                .bind(&mut world, 0x4000, socket("203.0.113.7:50001"))
                .success();
        }
        if round % 2 == 0 {
            for client in &mut clients {
                client.refresh(&mut world, 0).success();
            }
            world.advance(Duration::from_secs(120));
        } else {
            world.advance(Duration::from_secs(600));
        }
        assert_eq!(world.allocations(), 0);
    }
    assert_eq!(bytes_in_use(), before, "memory is flat");
}

#[test]
fn relaying_a_packet_takes_nothing_from_the_allocator() {
    let (world, client, relayed) = lively(Transport::Udp, Protection::Sha1);
    let mut bare = Bare::new(world);
    let (mut other, at_other) = Client::allocated(&mut bare.world, "bob");
    let mut client = client;
    client.permit(&mut bare.world, at_other);
    client.bind(&mut bare.world, 0x4001, at_other).success();
    other.permit(&mut bare.world, relayed);
    let (_, relay) = bare.world.relay(relayed).unwrap();
    let (with_permission, with_channel) = (socket("198.51.100.1:9"), socket("198.51.100.2:9"));
    let payload = [7; 1200];
    let client_says = [
        channel_data(0x4000, &payload),
        channel_data(0x4001, &payload),
        Draft::indication(SEND)
            .peer(with_permission)
            .data(&payload)
            .finish(),
        Draft::indication(SEND)
            .peer(at_other)
            .data(&payload)
            .finish(),
        // and what goes no further
        channel_data(0x4007, &payload),
        Draft::indication(SEND)
            .peer(socket("198.51.100.9:9"))
            .data(&payload)
            .finish(),
        vec![0xFF; 100],
    ];
    let mut relayed_packets = 0;
    for round in 0..3 {
        let before = calls();
        for _ in 0..1000 {
            for packet in &client_says {
                bare.client_packet(client.five_tuple, packet);
                relayed_packets += bare.effects.list().len();
            }
            for peer in [with_permission, with_channel, socket("198.51.100.9:9")] {
                bare.peer_packet(relay, peer, &payload);
                relayed_packets += bare.effects.list().len();
            }
        }
        if round > 0 {
            assert_eq!(calls(), before, "the allocator was not asked");
        }
    }
    assert_eq!(relayed_packets, 3 * 1000 * 6, "six of them are relayed");
}

#[test]
fn an_idle_allocation_is_small() {
    // coturn: 21 KiB
    let mut config = config();
    config.quotas.allocations_per_user = 10_000;
    let mut world = World::of(1, config, 49_152..=65_535, 1);
    let mut clients: Vec<_> = (0..2000)
        .map(|_| {
            let mut client = Client::new(&mut world, "alice");
            client.challenge(&mut world);
            client
        })
        .collect();
    let requests: Vec<_> = clients
        .iter()
        .map(|client| client.sign(Draft::allocate()))
        .collect();
    let permissions: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            let request = Draft::request(CHANNEL_BIND).channel(0x4000);
            client.sign(request.peer(socket("198.51.100.1:9")))
        })
        .collect();
    let mut bare = Bare::new(world);
    let before = bytes_in_use();
    for (client, request) in clients.iter().zip(&requests) {
        bare.client_packet(client.five_tuple, request);
        let mut opened = None;
        for effect in bare.effects.list() {
            if let Effect::OpenRelay { relay, .. } = effect {
                opened = Some(*relay);
            }
        }
        bare.effects.clear();
        bare.world.servers[0].relay_opened(opened.unwrap(), &mut bare.effects);
    }
    for (client, request) in clients.iter().zip(&permissions) {
        bare.client_packet(client.five_tuple, request);
        assert_eq!(bare.effects.list().len(), 1);
    }
    bare.effects.clear();
    let each = (bytes_in_use() - before) / 2000;
    assert!((1..2100).contains(&each), "{each} bytes an allocation");
    assert_eq!(bare.world.servers[0].allocations(), 2000);
}

#[test]
fn a_reload_in_a_storm_of_packets_changes_no_more_than_it_says() {
    let seed = Seed(5);
    let mut random = Seeded::new(seed.0);
    let (mut world, client, relayed) = lively(Transport::Udp, Protection::Sha256);
    let corpus = corpus(&client);
    let denied = socket("198.51.100.2:9");
    for round in 0..ROUNDS / 100 {
        let is_narrow = random.chance(50);
        world.reconfigure(|config| {
            let mut policy = policy();
            if is_narrow {
                policy.allow = vec!["198.51.100.1/32".parse().unwrap()];
            }
            config.policy = std::sync::Arc::new(policy);
        });
        for _ in 0..5 {
            let bytes = mutate(&mut random, &corpus);
            // the world asserts of each datagram that the policy of now allows it
            client.put(&mut world, &bytes);
        }
        world.pass(Duration::from_micros(100));
        let outcome = client.send_on(&mut world, 0x4000, b"data");
        assert_eq!(outcome.to_peers.len(), usize::from(!is_narrow), "{round}");
        let outcome = world.peer_says(relayed, denied, b"data");
        assert_eq!(outcome.to_clients.len(), usize::from(!is_narrow), "{round}");
    }
}
