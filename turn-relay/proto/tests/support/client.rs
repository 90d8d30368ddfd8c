//! A client that knows its credentials, and nothing of what the server thinks.

use std::net::SocketAddr;

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use stun_types::message::IntegrityKey;
use turn_relay_proto::{
    FiveTuple,
    address::{Family, Transport},
};

use super::{
    stun::{
        ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Decoded, Draft, Hmac, KeyKind, REFRESH,
        SEND, attribute, channel_data, long_term_key,
    },
    world::{FromServer, Outcome, REALM, SECRET, World},
};

/// How a client protects its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// MESSAGE-INTEGRITY and nothing of RFC 8489's algorithms: what most clients do.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256 and PASSWORD-ALGORITHM of SHA-256.
    Sha256,
    /// MESSAGE-INTEGRITY-SHA256 and PASSWORD-ALGORITHM of MD5.
    Sha256WithMd5Key,
}

impl Protection {
    pub(crate) const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha256WithMd5Key];

    pub(crate) const fn hmac(self) -> Hmac {
        match self {
            Self::Sha1 => Hmac::Sha1,
            Self::Sha256 | Self::Sha256WithMd5Key => Hmac::Sha256,
        }
    }

    pub(crate) const fn key_kind(self) -> KeyKind {
        match self {
            Self::Sha1 | Self::Sha256WithMd5Key => KeyKind::Md5,
            Self::Sha256 => KeyKind::Sha256,
        }
    }

    /// The value of PASSWORD-ALGORITHM.
    pub(crate) const fn algorithm(self) -> Option<[u8; 4]> {
        match self {
            Self::Sha1 => None,
            Self::Sha256 => Some([0, 2, 0, 0]),
            Self::Sha256WithMd5Key => Some([0, 1, 0, 0]),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Client {
    /// Which of the world's servers has its packets.
    pub(crate) server: usize,
    pub(crate) five_tuple: FiveTuple,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) realm: String,
    /// As the server gave it; empty before that.
    pub(crate) nonce: Vec<u8>,
    /// The value of PASSWORD-ALGORITHMS as the server gave it.
    pub(crate) algorithms: Vec<u8>,
    pub(crate) protection: Protection,
}

impl Client {
    /// Over UDP and IPv4, with credentials that are good for a day.
    pub(crate) fn new(world: &mut World, user: &str) -> Self {
        Self::over(world, user, Transport::Udp, Family::V4)
    }

    pub(crate) fn over(
        world: &mut World,
        user: &str,
        transport: Transport,
        family: Family,
    ) -> Self {
        let five_tuple = world.five_tuple_over(transport, family);
        let username = format!("{}:{user}", world.now.unix_seconds + 86_400);
        Self {
            server: 0,
            five_tuple,
            password: rest_password(SECRET, &username),
            username,
            realm: REALM.to_owned(),
            nonce: Vec::new(),
            algorithms: Vec::new(),
            protection: Protection::Sha1,
        }
    }

    /// One with an allocation, and where peers reach it.
    pub(crate) fn allocated(world: &mut World, user: &str) -> (Self, SocketAddr) {
        let mut client = Self::new(world, user);
        let relayed = client.allocate(world);
        (client, relayed)
    }

    /// One with an allocation over a transport.
    pub(crate) fn allocated_over(
        world: &mut World,
        user: &str,
        transport: Transport,
    ) -> (Self, SocketAddr) {
        let mut client = Self::over(world, user, transport, Family::V4);
        let relayed = client.allocate(world);
        (client, relayed)
    }

    /// One with relayed addresses of both families, IPv4 first.
    pub(crate) fn dual(world: &mut World, user: &str) -> (Self, SocketAddr, SocketAddr) {
        let mut client = Self::new(world, user);
        let answer = client
            .call(world, Draft::allocate().additional_family(2))
            .success();
        let mut relayed = answer.relayed();
        relayed.sort_by_key(SocketAddr::is_ipv6);
        (client, relayed[0], relayed[1])
    }

    pub(crate) const fn on_server(mut self, server: usize) -> Self {
        self.server = server;
        self
    }

    pub(crate) const fn protected_by(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// The same with other credentials.
    pub(crate) fn with_username(mut self, username: &str) -> Self {
        username.clone_into(&mut self.username);
        self.password = rest_password(SECRET, username);
        self
    }

    pub(crate) fn key(&self) -> IntegrityKey {
        long_term_key(
            &self.username,
            &self.password,
            &self.realm,
            self.protection.key_kind(),
        )
    }

    /// Asks without credentials, and remembers what the challenge says.
    pub(crate) fn challenge(&mut self, world: &mut World) -> Decoded {
        let bytes = Draft::allocate().finish();
        let outcome = world.client_says(self.server, self.five_tuple, &bytes);
        let answer = outcome.stun().clone().error(401);
        self.remember(&answer);
        answer
    }

    /// Takes realm, nonce and algorithms from a 401 or 438.
    pub(crate) fn remember(&mut self, answer: &Decoded) {
        let value = |number| answer.value(number).unwrap().to_vec();
        self.realm = String::from_utf8(value(attribute::REALM)).unwrap();
        self.nonce = value(attribute::NONCE);
        self.algorithms = value(attribute::PASSWORD_ALGORITHMS);
    }

    /// Everything that authenticates a request, but not its integrity.
    pub(crate) fn identify(&self, draft: Draft) -> Draft {
        let draft = draft
            .with(attribute::USERNAME, self.username.as_bytes())
            .with(attribute::REALM, self.realm.as_bytes())
            .with(attribute::NONCE, &self.nonce);
        match self.protection.algorithm() {
            None => draft,
            Some(algorithm) => draft
                .with(attribute::PASSWORD_ALGORITHMS, &self.algorithms)
                .with(attribute::PASSWORD_ALGORITHM, &algorithm),
        }
    }

    pub(crate) fn sign(&self, draft: Draft) -> Vec<u8> {
        self.identify(draft)
            .integrity(self.protection.hmac(), &self.key())
            .finish()
    }

    /// Signs and sends a request. What comes back is the answer to it, and is authentic where it has to be.
    #[track_caller]
    pub(crate) fn call(&mut self, world: &mut World, draft: Draft) -> Decoded {
        let (answer, _) = self.call_with_outcome(world, draft);
        answer
    }

    #[track_caller]
    pub(crate) fn call_with_outcome(
        &mut self,
        world: &mut World,
        draft: Draft,
    ) -> (Decoded, Outcome) {
        if self.nonce.is_empty() {
            self.challenge(world);
        }
        let bytes = self.sign(draft);
        self.call_with_bytes(world, &bytes)
    }

    /// As [`Self::call_with_outcome`], with a request that is already signed.
    #[track_caller]
    pub(crate) fn call_with_bytes(&self, world: &mut World, bytes: &[u8]) -> (Decoded, Outcome) {
        let outcome = world.client_says(self.server, self.five_tuple, bytes);
        let answer = outcome.stun().clone();
        self.check_answer(bytes, &answer);
        (answer, outcome)
    }

    /// Asserts that `answer` is one to the request `bytes`, and protected as that was.
    #[track_caller]
    pub(crate) fn check_answer(&self, bytes: &[u8], answer: &Decoded) {
        assert_eq!(
            answer.bytes[4..20],
            bytes[4..20],
            "cookie and transaction ID"
        );
        let request_type = u16::from_be_bytes([bytes[0], bytes[1]]);
        let answer_type = u16::from_be_bytes([answer.bytes[0], answer.bytes[1]]);
        assert_eq!(
            answer_type & !0x0110,
            request_type,
            "the method is the same"
        );
        if !matches!(answer.code(), Some(401 | 438)) {
            assert_eq!(
                answer.hmac(),
                Some(self.protection.hmac()),
                "an answer is protected as its request was: {answer:?}"
            );
        }
        if answer.hmac().is_some() {
            assert!(answer.is_authentic(&self.key()), "{answer:?}");
        }
    }

    /// Sends a request as it is and gives back the only thing that is sent, whatever it is.
    #[track_caller]
    pub(crate) fn ask(&self, world: &mut World, bytes: &[u8]) -> Decoded {
        let outcome = world.client_says(self.server, self.five_tuple, bytes);
        let answer = outcome.stun().clone();
        assert_eq!(
            answer.bytes[4..20],
            bytes[4..20],
            "cookie and transaction ID"
        );
        answer
    }

    /// Sends anything.
    pub(crate) fn put(&self, world: &mut World, bytes: &[u8]) -> Outcome {
        world.client_says(self.server, self.five_tuple, bytes)
    }

    #[track_caller]
    pub(crate) fn allocate(&mut self, world: &mut World) -> SocketAddr {
        let answer = self.call(world, Draft::allocate()).success();
        assert_eq!(answer.method, ALLOCATE);
        answer.relayed()[0]
    }

    pub(crate) fn refresh(&mut self, world: &mut World, lifetime: u32) -> Decoded {
        self.call(world, Draft::request(REFRESH).lifetime(lifetime))
    }

    pub(crate) fn create_permissions(
        &mut self,
        world: &mut World,
        peers: &[SocketAddr],
    ) -> Decoded {
        let request = Draft::request(CREATE_PERMISSION);
        let request = peers.iter().fold(request, |draft, peer| draft.peer(*peer));
        self.call(world, request)
    }

    /// Gets a permission, with a new nonce if the old one is too old.
    #[track_caller]
    pub(crate) fn permit(&mut self, world: &mut World, peer: SocketAddr) {
        let mut answer = self.create_permissions(world, &[peer]);
        if answer.code() == Some(438) {
            self.remember(&answer);
            answer = self.create_permissions(world, &[peer]);
        }
        answer.success();
    }

    pub(crate) fn bind(&mut self, world: &mut World, channel: u16, peer: SocketAddr) -> Decoded {
        self.call(
            world,
            Draft::request(CHANNEL_BIND).channel(channel).peer(peer),
        )
    }

    /// A Send indication.
    pub(crate) fn send(&self, world: &mut World, peer: SocketAddr, data: &[u8]) -> Outcome {
        self.put(
            world,
            &Draft::indication(SEND).peer(peer).data(data).finish(),
        )
    }

    /// A ChannelData message.
    pub(crate) fn send_on(&self, world: &mut World, channel: u16, data: &[u8]) -> Outcome {
        self.put(world, &channel_data(channel, data))
    }

    pub(crate) fn binding(&self, world: &mut World) -> Outcome {
        self.put(world, &Draft::request(BINDING).finish())
    }

    /// Whether data of `peer` reach this client now, who is at `relayed`, and as what.
    #[track_caller]
    pub(crate) fn hears(
        &self,
        world: &mut World,
        relayed: SocketAddr,
        peer: SocketAddr,
    ) -> Option<FromServer> {
        let outcome = world.peer_says(relayed, peer, b"are you there?");
        let message = outcome.to_clients.first()?;
        assert_eq!(message.client, self.five_tuple);
        Some(message.message.clone())
    }

    /// Whether data reach `peer` now in a Send indication.
    pub(crate) fn reaches(&self, world: &mut World, peer: SocketAddr) -> bool {
        let outcome = self.send(world, peer, b"are you there?");
        outcome
            .to_peers
            .iter()
            .any(|datagram| datagram.peer == peer)
    }
}

/// The password of draft-uberti-behave-turn-rest-00.
pub(crate) fn rest_password(secret: &str, username: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    BASE64_STANDARD.encode(hmac::sign(&key, username.as_bytes()))
}
