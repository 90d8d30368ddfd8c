//! A TURN client, written with `stun-types`.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use stun_types::{
    attribute::{AttributeType, RawAttribute, XorSocketAddr},
    message::{
        IntegrityAlgorithm, LongTermCredentials, Message, MessageClass,
        MessageIntegrityCredentials, MessageType, MessageWrite as _, MessageWriteExt as _,
        MessageWriteVec, Method, TransactionId,
    },
};

use crate::{
    time::{PATIENCE, SILENCE, now, unix_seconds},
    wire::{Received, Wire},
};

/// What relays of these tests sign with.
pub(crate) const SECRET: &str = "a secret of the tests, long enough";
pub(crate) const REALM: &str = "turn.example.org";

pub(crate) const BINDING: u16 = 0x001;
pub(crate) const ALLOCATE: u16 = 0x003;
pub(crate) const REFRESH: u16 = 0x004;
pub(crate) const SEND: u16 = 0x006;
pub(crate) const DATA_INDICATION: u16 = 0x007;
pub(crate) const CREATE_PERMISSION: u16 = 0x008;
pub(crate) const CHANNEL_BIND: u16 = 0x009;
pub(crate) const CONNECT: u16 = 0x00A;
pub(crate) const CONNECTION_BIND: u16 = 0x00B;
pub(crate) const CONNECTION_ATTEMPT: u16 = 0x00C;

const USERNAME: u16 = 0x0006;
pub(crate) const ERROR_CODE: u16 = 0x0009;
const CHANNEL_NUMBER: u16 = 0x000C;
pub(crate) const LIFETIME: u16 = 0x000D;
pub(crate) const XOR_PEER_ADDRESS: u16 = 0x0012;
pub(crate) const DATA: u16 = 0x0013;
const REALM_ATTRIBUTE: u16 = 0x0014;
const PASSWORD_ALGORITHM: u16 = 0x001D;
const PASSWORD_ALGORITHMS: u16 = 0x8002;
const NONCE: u16 = 0x0015;
pub(crate) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
const EVEN_PORT: u16 = 0x0018;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const DONT_FRAGMENT: u16 = 0x001A;
pub(crate) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub(crate) const CONNECTION_ID: u16 = 0x002A;
const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
pub(crate) const SOFTWARE: u16 = 0x8022;
pub(crate) const ICMP: u16 = 0x8004;

/// After how long a request over UDP that has no answer is sent again.
const RETRANSMISSION: Duration = Duration::from_secs(2);

/// A username and its password.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl Credentials {
    /// Of somebody, for an hour from now.
    pub(crate) fn of(user: &str) -> Self {
        Self::signed(SECRET, unix_seconds() + 3600, user)
    }

    /// As a homeserver that has `secret` makes them.
    pub(crate) fn signed(secret: &str, expiry: u64, user: &str) -> Self {
        let username = format!("{expiry}:{user}");
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        let password = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        Self { username, password }
    }
}

/// An attribute of a request.
#[derive(Clone, Debug)]
pub(crate) enum Attribute {
    Raw(u16, Vec<u8>),
    Xor(u16, SocketAddr),
}

pub(crate) fn peer(address: SocketAddr) -> Attribute {
    Attribute::Xor(XOR_PEER_ADDRESS, address)
}

/// The peer address of a permission, whose port means nothing.
pub(crate) fn peer_ip(address: impl Into<IpAddr>) -> Attribute {
    peer(SocketAddr::new(address.into(), 0))
}

pub(crate) fn lifetime(seconds: u32) -> Attribute {
    Attribute::Raw(LIFETIME, seconds.to_be_bytes().to_vec())
}

/// REQUESTED-TRANSPORT: 17 for UDP, 6 for TCP.
pub(crate) fn transport(protocol: u8) -> Attribute {
    Attribute::Raw(REQUESTED_TRANSPORT, vec![protocol, 0, 0, 0])
}

pub(crate) fn udp_transport() -> Attribute {
    transport(17)
}

pub(crate) fn tcp_transport() -> Attribute {
    transport(6)
}

pub(crate) fn ipv6() -> Attribute {
    Attribute::Raw(REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0])
}

pub(crate) fn ipv6_too() -> Attribute {
    Attribute::Raw(ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0])
}

pub(crate) fn dont_fragment() -> Attribute {
    Attribute::Raw(DONT_FRAGMENT, Vec::new())
}

/// With the bit that asks for the next port, too, or without it (RFC 8656 §18.7).
pub(crate) fn even_port(and_the_next: bool) -> Attribute {
    Attribute::Raw(EVEN_PORT, vec![u8::from(and_the_next) << 7])
}

pub(crate) fn data(payload: &[u8]) -> Attribute {
    Attribute::Raw(DATA, payload.to_vec())
}

pub(crate) fn channel(number: u16) -> Attribute {
    let [high, low] = number.to_be_bytes();
    Attribute::Raw(CHANNEL_NUMBER, vec![high, low, 0, 0])
}

pub(crate) fn connection_id(id: &[u8]) -> Attribute {
    Attribute::Raw(CONNECTION_ID, id.to_vec())
}

/// A message without credentials.
pub(crate) fn message(class: MessageClass, method: u16, attributes: &[Attribute]) -> Vec<u8> {
    unsigned(class, method, attributes).finish()
}

/// A request without credentials.
pub(crate) fn request(method: u16, attributes: &[Attribute]) -> Vec<u8> {
    message(MessageClass::Request, method, attributes)
}

fn unsigned(class: MessageClass, method: u16, attributes: &[Attribute]) -> MessageWriteVec {
    let kind = MessageType::from_class_method(class, Method::new(method));
    let id = TransactionId::generate();
    let mut writer = Message::builder(kind, id, MessageWriteVec::new());
    for attribute in attributes {
        match attribute {
            Attribute::Raw(kind, value) => {
                let raw = RawAttribute::new(AttributeType::new(*kind), value);
                writer.add_attribute(&raw).unwrap();
            }
            Attribute::Xor(kind, address) => {
                let xor = XorSocketAddr::new(*address, id);
                let raw = xor.to_raw(AttributeType::new(*kind));
                writer.add_attribute(&raw).unwrap();
            }
        }
    }
    writer
}

/// A client of the relay.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    pub(crate) credentials: Credentials,
    challenge: Option<Challenge>,
    algorithm: IntegrityAlgorithm,
    /// What came while something else was waited for.
    earlier: VecDeque<Vec<u8>>,
}

/// What the relay wants in an authentic request.
#[derive(Clone)]
struct Challenge {
    realm: String,
    nonce: Vec<u8>,
    algorithms: Vec<u8>,
}

/// Relayed data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Relayed {
    /// A Data indication.
    From(SocketAddr, Vec<u8>),
    /// ChannelData.
    On(u16, Vec<u8>),
}

impl Relayed {
    pub(crate) fn payload(self) -> Vec<u8> {
        match self {
            Self::From(_, payload) | Self::On(_, payload) => payload,
        }
    }
}

impl Client {
    /// Somebody whom nobody else in the test is.
    pub(crate) fn new(wire: Wire) -> Self {
        let user = format!("somebody at {}", wire.local_address());
        Self::with(wire, Credentials::of(&user))
    }

    pub(crate) fn with(wire: Wire, credentials: Credentials) -> Self {
        Self {
            wire,
            credentials,
            challenge: None,
            algorithm: IntegrityAlgorithm::Sha1,
            earlier: VecDeque::new(),
        }
    }

    /// A request as it is sent now: authentic, if the relay has said what that takes.
    pub(crate) fn request(&self, method: u16, attributes: &[Attribute]) -> Vec<u8> {
        let mut attributes = attributes.to_vec();
        let Some(challenge) = &self.challenge else {
            return request(method, &attributes);
        };
        let text = |kind, value: &str| Attribute::Raw(kind, value.as_bytes().to_vec());
        attributes.push(text(USERNAME, &self.credentials.username));
        attributes.push(text(REALM_ATTRIBUTE, &challenge.realm));
        attributes.push(Attribute::Raw(NONCE, challenge.nonce.clone()));
        if self.algorithm == IntegrityAlgorithm::Sha256 {
            let offered = challenge.algorithms.clone();
            attributes.push(Attribute::Raw(PASSWORD_ALGORITHMS, offered));
            attributes.push(Attribute::Raw(PASSWORD_ALGORITHM, vec![0, 2, 0, 0]));
        }
        let mut writer = unsigned(MessageClass::Request, method, &attributes);
        writer
            .add_message_integrity(&self.key(&challenge.realm), self.algorithm)
            .unwrap();
        writer.finish()
    }

    fn key(&self, realm: &str) -> MessageIntegrityCredentials {
        let Credentials { username, password } = self.credentials.clone();
        LongTermCredentials::new(username, password)
            .to_key(realm.to_owned())
            .into()
    }

    /// Asks, and again with what the relay wants in an authentic request; the last answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, method: u16, attributes: &[Attribute]) -> Answer {
        let answer = self.ask_once(method, attributes);
        let nonce = answer.value(NONCE);
        let Some(nonce) = nonce.filter(|_| [Some(401), Some(438)].contains(&answer.code())) else {
            return answer;
        };
        let known = self.challenge.replace(Challenge {
            realm: String::from_utf8(answer.value(REALM_ATTRIBUTE).unwrap()).unwrap(),
            nonce,
            algorithms: answer.value(PASSWORD_ALGORITHMS).unwrap(),
        });
        if known.is_some() && answer.code() == Some(401) {
            return answer;
        }
        self.ask_once(method, attributes)
    }

    #[track_caller]
    fn ask_once(&mut self, method: u16, attributes: &[Attribute]) -> Answer {
        let request = self.request(method, attributes);
        let answer = self
            .exchange(&request)
            .unwrap_or_else(|| panic!("method {method:#x} gets no answer"));
        let message = answer.message();
        if let Some(challenge) = &self.challenge
            && method != BINDING
            && !matches!(answer.code(), Some(400 | 401))
        {
            message
                .validate_integrity(&self.key(&challenge.realm))
                .expect("an answer has the integrity of its request");
        }
        answer
    }

    /// Sends a request, over UDP again and again, until its answer comes; none: it does not, or the connection ends.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Option<Answer> {
        let id = Message::from_bytes(request).unwrap().transaction_id();
        let deadline = now() + PATIENCE;
        let attempt = if self.wire.is_stream() {
            PATIENCE
        } else {
            RETRANSMISSION
        };
        while now() < deadline {
            if self.wire.send(request).is_err() && self.wire.is_stream() {
                return None;
            }
            let end = now() + attempt;
            loop {
                match self.wire.receive(end.saturating_duration_since(now())) {
                    Received::Message(bytes) if is_answer_to(&bytes, id) => {
                        return Some(Answer(bytes));
                    }
                    Received::Message(bytes) => self.earlier.push_back(bytes),
                    Received::Closed => return None,
                    Received::Nothing => break,
                }
            }
        }
        None
    }

    /// Makes an allocation; its relayed address.
    #[track_caller]
    pub(crate) fn allocate(&mut self) -> SocketAddr {
        self.allocate_with(&[udp_transport()])
    }

    #[track_caller]
    pub(crate) fn allocate_with(&mut self, attributes: &[Attribute]) -> SocketAddr {
        let answer = self.ask(ALLOCATE, attributes);
        assert_eq!(answer.code(), None, "no allocation");
        answer.xor(XOR_RELAYED_ADDRESS).unwrap()
    }

    /// The error code of an Allocate request that is refused.
    #[track_caller]
    pub(crate) fn refused_allocation(&mut self) -> u16 {
        let answer = self.ask(ALLOCATE, &[udp_transport()]);
        answer.code().expect("it is refused")
    }

    /// Refreshes the allocation; the lifetime that it has then.
    #[track_caller]
    pub(crate) fn refresh(&mut self, seconds: u32) -> Result<u32, u16> {
        let answer = self.ask(REFRESH, &[lifetime(seconds)]);
        if let Some(code) = answer.code() {
            return Err(code);
        }
        let value = answer.value(LIFETIME).unwrap();
        Ok(u32::from_be_bytes(value.try_into().unwrap()))
    }

    /// The error code of a CreatePermission request; none: it is granted.
    #[track_caller]
    pub(crate) fn permit(&mut self, address: impl Into<IpAddr>) -> Option<u16> {
        self.ask(CREATE_PERMISSION, &[peer_ip(address)]).code()
    }

    /// The error code of a ChannelBind request; none: it is granted.
    #[track_caller]
    pub(crate) fn bind(&mut self, number: u16, address: SocketAddr) -> Option<u16> {
        self.ask(CHANNEL_BIND, &[channel(number), peer(address)])
            .code()
    }

    /// Sends data in a Send indication.
    pub(crate) fn send_to(&mut self, address: SocketAddr, payload: &[u8]) {
        self.send_with(&[peer(address), data(payload)]);
    }

    /// A Send indication with these attributes.
    pub(crate) fn send_with(&mut self, attributes: &[Attribute]) {
        let indication = message(MessageClass::Indication, SEND, attributes);
        self.wire.send(&indication).unwrap();
    }

    /// Sends data as ChannelData.
    pub(crate) fn send_on(&mut self, number: u16, payload: &[u8]) {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        if self.wire.is_stream() {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        self.wire.send(&bytes).unwrap();
    }

    /// The next relayed data, which must come.
    #[track_caller]
    pub(crate) fn relayed(&mut self) -> Relayed {
        self.relayed_within(PATIENCE)
            .expect("relayed data comes to the client")
    }

    /// That no relayed data comes.
    #[track_caller]
    pub(crate) fn assert_silence(&mut self) {
        assert_eq!(self.relayed_within(SILENCE), None);
    }

    /// The next relayed data.
    pub(crate) fn relayed_within(&mut self, within: Duration) -> Option<Relayed> {
        let deadline = now() + within;
        loop {
            let message = self.next_message(deadline)?;
            if let Some(relayed) = relayed(&message) {
                return Some(relayed);
            }
        }
    }

    /// The next indication of a method, which must come.
    #[track_caller]
    pub(crate) fn indication(&mut self, method: u16) -> Answer {
        let deadline = now() + PATIENCE;
        loop {
            let bytes = self.next_message(deadline).expect("an indication comes");
            if !matches!(bytes.first(), Some(0..=3)) {
                continue;
            }
            let answer = Answer(bytes);
            let message = answer.message();
            if message.class() == MessageClass::Indication && message.method().value() == method {
                return answer;
            }
        }
    }

    fn next_message(&mut self, deadline: std::time::Instant) -> Option<Vec<u8>> {
        if let Some(message) = self.earlier.pop_front() {
            return Some(message);
        }
        match self.wire.receive(deadline.saturating_duration_since(now())) {
            Received::Message(message) => Some(message),
            Received::Closed => panic!("the relay closed the connection"),
            Received::Nothing => None,
        }
    }

    /// Makes authentic requests with SHA-256 from now on: RFC 8489 §9.2.5.
    pub(crate) fn use_sha256(&mut self) {
        self.algorithm = IntegrityAlgorithm::Sha256;
    }
}

fn is_answer_to(bytes: &[u8], id: TransactionId) -> bool {
    matches!(bytes.first(), Some(0..=3))
        && Message::from_bytes(bytes)
            .expect("the relay sends well-formed messages")
            .transaction_id()
            == id
}

#[track_caller]
fn relayed(bytes: &[u8]) -> Option<Relayed> {
    if let [first @ 64..=79, second, high, low, payload @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let number = u16::from_be_bytes([*first, *second]);
        return Some(Relayed::On(number, payload[..len].to_vec()));
    }
    let answer = Answer(bytes.to_vec());
    if answer.message().method().value() != DATA_INDICATION {
        return None;
    }
    let from = answer.xor(XOR_PEER_ADDRESS).unwrap();
    // without DATA it tells of an ICMP error
    Some(Relayed::From(from, answer.value(DATA)?))
}

/// A STUN message from the relay.
pub(crate) struct Answer(pub(crate) Vec<u8>);

impl Answer {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::from_bytes(&self.0).expect("the relay sends well-formed messages")
    }

    /// The error code; none for a success.
    pub(crate) fn code(&self) -> Option<u16> {
        let value = self.value(ERROR_CODE);
        assert_eq!(
            value.is_some(),
            self.message().class() == MessageClass::Error
        );
        let [_, _, class, number, ..] = value?[..] else {
            panic!("a short ERROR-CODE");
        };
        Some(u16::from(class) * 100 + u16::from(number))
    }

    pub(crate) fn value(&self, attribute: u16) -> Option<Vec<u8>> {
        self.message()
            .raw_attribute(AttributeType::new(attribute))
            .map(|raw| raw.value.to_vec())
    }

    pub(crate) fn xor(&self, attribute: u16) -> Option<SocketAddr> {
        self.xor_nth(attribute, 0)
    }

    pub(crate) fn xor_nth(&self, attribute: u16, index: usize) -> Option<SocketAddr> {
        let message = self.message();
        let raw = message.nth_raw_attribute(AttributeType::new(attribute), index)?;
        let address = XorSocketAddr::from_raw(&raw).unwrap();
        Some(address.addr(message.transaction_id()))
    }
}

/// A peer on loopback.
pub(crate) struct Peer(pub(crate) UdpSocket);

impl Peer {
    pub(crate) fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST)
    }

    pub(crate) fn at(address: impl Into<IpAddr>) -> Self {
        Self(UdpSocket::bind((address.into(), 0)).unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn send(&self, relayed: SocketAddr, payload: &[u8]) {
        self.0.send_to(payload, relayed).unwrap();
    }

    /// The next datagram, which must come, and who sent it.
    #[track_caller]
    pub(crate) fn receive(&self) -> (Vec<u8>, SocketAddr) {
        self.receive_within(PATIENCE)
            .expect("relayed data comes to the peer")
    }

    /// That nothing comes.
    #[track_caller]
    pub(crate) fn assert_silence(&self) {
        assert_eq!(self.receive_within(SILENCE), None);
    }

    pub(crate) fn receive_within(&self, within: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        self.0.set_read_timeout(Some(within)).unwrap();
        let mut buffer = vec![0; 65_536];
        let (len, from) = loop {
            match self.0.recv_from(&mut buffer) {
                Ok(received) => break received,
                // the system interrupts a process that starts others
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        };
        buffer.truncate(len);
        Some((buffer, from))
    }
}
