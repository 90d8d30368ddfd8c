//! As much of a TURN client as it takes to get a packet through (RFC 8656).

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shared::{clock::Clock, random::Random};
use tokio::time::{Instant, timeout, timeout_at};
use turn_relay_proto::stun::{
    AttributeType, Class, Kind, Message, MessageWriter, Method, TransactionId,
    attribute::Family,
    integrity::{IntegrityKind, Key, PasswordAlgorithm},
};
use zeroize::Zeroizing;

use super::wire::Wire;

/// After how long a packet over UDP that has no answer is sent again (RFC 8489 §6.2.1).
const RETRANSMISSION: Duration = Duration::from_millis(500);

/// Messages that came while something else was waited for.
const MOST_EARLIER: usize = 64;

/// How often a request is made again with what its answer asks for.
const ATTEMPTS: usize = 4;

/// REQUESTED-TRANSPORT (RFC 8656 §18.7): UDP.
const UDP: [u8; 4] = [17, 0, 0, 0];

/// What somebody can be authenticated with.
pub(super) struct Credential {
    pub(super) username: String,
    pub(super) password: Zeroizing<String>,
}

/// Why something did not come about.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Nothing came in time.
    NoAnswer,
    /// The connection is not made, or broke.
    Connection(io::Error),
    /// TCP was there, TLS is not.
    Tls(io::Error),
    /// The other side closed the connection.
    Closed,
    /// An error response.
    Refused {
        code: u16,
        /// What is to be said of the realm, which the password depends on.
        realm: Option<String>,
    },
    /// What came is no STUN, or lacks what it must have.
    Nonsense,
    /// The answer is signed with another key than the request.
    Forged,
}

/// What the server wants in an authentic request.
struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: Key,
}

/// A client with one allocation, or none yet.
pub(super) struct Client<'a> {
    wire: Wire,
    credential: Credential,
    clock: &'a Clock,
    random: &'a Random,
    limit: Duration,
    challenge: Option<Challenge>,
    has_allocation: bool,
    earlier: VecDeque<Vec<u8>>,
}

impl<'a> Client<'a> {
    /// `limit` is how long one request may take.
    pub(super) fn new(
        wire: Wire,
        credential: Credential,
        (clock, random): (&'a Clock, &'a Random),
        limit: Duration,
    ) -> Self {
        Self {
            wire,
            credential,
            clock,
            random,
            limit,
            challenge: None,
            has_allocation: false,
            earlier: VecDeque::new(),
        }
    }

    fn now(&self) -> Instant {
        self.clock.now().into()
    }

    /// The relayed address of a new allocation.
    pub(super) async fn allocate(&mut self, family: Option<Family>) -> Result<SocketAddr, Fault> {
        let answer = self
            .ask(Method::Allocate, |writer| {
                writer.attribute(AttributeType::REQUESTED_TRANSPORT, &UDP);
                if let Some(family) = family {
                    let value = [family.number(), 0, 0, 0];
                    writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &value);
                }
            })
            .await?;
        self.has_allocation = true;
        let message = Message::parse(&answer).map_err(|_| Fault::Nonsense)?;
        message
            .xor_address(AttributeType::XOR_RELAYED_ADDRESS)
            .ok_or(Fault::Nonsense)
    }

    /// Lets packets of `peer` in.
    pub(super) async fn permit(&mut self, peer: IpAddr) -> Result<(), Fault> {
        self.ask(Method::CreatePermission, |writer| {
            let address = SocketAddr::new(peer, 0);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, address);
        })
        .await
        .map(|_| ())
    }

    /// Gives the allocation back, if there is one.
    pub(super) async fn release(&mut self) -> Result<(), Fault> {
        if !self.has_allocation {
            return Ok(());
        }
        self.ask(Method::Refresh, |writer| {
            writer.number(AttributeType::LIFETIME, 0);
        })
        .await
        .map(|_| ())
    }

    async fn send_to(&mut self, peer: SocketAddr, payload: &[u8]) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        let id = TransactionId(self.random.bytes());
        MessageWriter::new(&mut bytes, Class::Indication, Method::Send, id)
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
            .attribute(AttributeType::DATA, payload);
        self.wire.send(&bytes).await
    }

    /// Waits for `payload` from `peer`.
    async fn hear(
        &mut self,
        peer: SocketAddr,
        payload: &[u8],
        deadline: Instant,
    ) -> Result<(), Fault> {
        loop {
            let bytes = match self.earlier.pop_front() {
                Some(bytes) => bytes,
                None => timeout_at(deadline, self.wire.receive())
                    .await
                    .map_err(|_| Fault::NoAnswer)??,
            };
            if let Ok(message) = Message::parse(&bytes)
                && message.method() == Method::Data
                && message.xor_address(AttributeType::XOR_PEER_ADDRESS) == Some(peer)
                && message.value(AttributeType::DATA) == Some(payload)
            {
                return Ok(());
            }
        }
    }

    /// Asks as often as it takes to say what the server wants to know; the answer to a success.
    async fn ask(
        &mut self,
        method: Method,
        write: impl Fn(&mut MessageWriter<'_>),
    ) -> Result<Vec<u8>, Fault> {
        for _ in 0..ATTEMPTS {
            let request = self.request(method, &write);
            let answer = self.exchange(&request).await?;
            let message = Message::parse(&answer).map_err(|_| Fault::Nonsense)?;
            if message.class() == Class::Success {
                let key = self.challenge.as_ref().map(|challenge| &challenge.key);
                if key.is_some_and(|key| !message.is_authentic(key)) {
                    return Err(Fault::Forged);
                }
                return Ok(answer);
            }
            let code = error_code(&message).ok_or(Fault::Nonsense)?;
            let may_go_on = match code {
                401 => self.challenge.is_none(),
                438 => true,
                _ => false,
            };
            let challenge = self.challenge_of(&message).filter(|_| may_go_on);
            let Some(challenge) = challenge else {
                let realm = self.challenge.as_ref().map(|challenge| &challenge.realm);
                let realm = realm.map(|realm| String::from_utf8_lossy(realm).into_owned());
                return Err(Fault::Refused { code, realm });
            };
            self.challenge = Some(challenge);
        }
        Err(Fault::Nonsense)
    }

    fn challenge_of(&self, message: &Message<'_>) -> Option<Challenge> {
        let realm = message.value(AttributeType::REALM)?.to_vec();
        let nonce = message.value(AttributeType::NONCE)?.to_vec();
        let key = Key::new(
            PasswordAlgorithm::Md5,
            self.credential.username.as_bytes(),
            &realm,
            self.credential.password.as_bytes(),
        );
        Some(Challenge { realm, nonce, key })
    }

    fn request(&self, method: Method, write: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let id = TransactionId(self.random.bytes());
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, id);
        write(&mut writer);
        if let Some(challenge) = &self.challenge {
            writer
                .attribute(AttributeType::USERNAME, self.credential.username.as_bytes())
                .attribute(AttributeType::REALM, &challenge.realm)
                .attribute(AttributeType::NONCE, &challenge.nonce)
                .integrity(IntegrityKind::Sha1, &challenge.key);
        }
        bytes
    }

    /// The answer to a request, which over UDP is sent again until there is one.
    async fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>, Fault> {
        let deadline = self.now() + self.limit;
        let id = Message::parse(request)
            .map_err(|_| Fault::Nonsense)?
            .transaction_id();
        loop {
            self.wire.send(request).await?;
            let end = if self.wire.is_stream() {
                deadline
            } else {
                deadline.min(self.now() + RETRANSMISSION)
            };
            match timeout_at(end, self.answer_to(id)).await {
                Ok(answer) => return answer,
                Err(_) if self.now() >= deadline => return Err(Fault::NoAnswer),
                Err(_) => {}
            }
        }
    }

    async fn answer_to(&mut self, id: TransactionId) -> Result<Vec<u8>, Fault> {
        loop {
            let bytes = self.wire.receive().await?;
            match Message::parse(&bytes) {
                Ok(message) if message.class() == Class::Indication => {
                    if self.earlier.len() < MOST_EARLIER {
                        self.earlier.push_back(bytes);
                    }
                }
                Ok(message) if message.transaction_id() == id => return Ok(bytes),
                // An answer to what was sent twice.
                Ok(_) => {}
                Err(_) if matches!(Kind::of(&bytes), Kind::ChannelData) => {}
                Err(_) => return Err(Fault::Nonsense),
            }
        }
    }
}

/// A packet of `from`'s that arrives at `to`, sent again over a network that may lose it.
pub(super) async fn pass(
    (from, source): (&mut Client<'_>, SocketAddr),
    (to, destination): (&mut Client<'_>, SocketAddr),
    payload: &[u8],
) -> Result<(), Fault> {
    let deadline = from.now() + from.limit;
    loop {
        from.send_to(destination, payload).await?;
        let end = deadline.min(from.now() + RETRANSMISSION);
        match to.hear(source, payload, end).await {
            Err(Fault::NoAnswer) if from.now() < deadline => {}
            result => return result,
        }
    }
}

/// What a server says to a request without credentials, for whoever wants to know who it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// Where the server saw the request come from.
    pub(crate) mapped: Option<SocketAddr>,
    /// The realm in which it wants credentials.
    pub(crate) realm: Option<String>,
}

/// Asks without credentials: a Binding request, and an Allocate request, which is refused.
pub(super) async fn greet(
    wire: Wire,
    (clock, random): (&Clock, &Random),
    limit: Duration,
) -> Result<Greeting, Fault> {
    let nobody = Credential {
        username: String::new(),
        password: Zeroizing::new(String::new()),
    };
    let mut client = Client::new(wire, nobody, (clock, random), limit);
    let binding = client.request(Method::Binding, |_| ());
    let answer = client.exchange(&binding).await?;
    let message = Message::parse(&answer).map_err(|_| Fault::Nonsense)?;
    let mapped = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
    let allocate = client.request(Method::Allocate, |writer| {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &UDP);
    });
    // A STUN server that is no TURN server may leave it without an answer.
    let realm = match timeout(limit, client.exchange(&allocate)).await {
        Ok(Ok(answer)) => Message::parse(&answer).ok().and_then(|message| {
            let realm = message.value(AttributeType::REALM)?;
            Some(String::from_utf8_lossy(realm).into_owned())
        }),
        Ok(Err(_)) | Err(_) => None,
    };
    Ok(Greeting { mapped, realm })
}

/// RFC 8489 §14.8.
fn error_code(message: &Message<'_>) -> Option<u16> {
    let &[_, _, class, number, ..] = message.value(AttributeType::ERROR_CODE)? else {
        return None;
    };
    Some(u16::from(class & 7) * 100 + u16::from(number))
}
