//! A TURN client (RFC 8656) as far as a call needs it: what WebRTC has in it.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use serde_json::Value;
use shared::random::Random;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, UdpSocket},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};
use turn_relay_proto::stun::{
    AttributeType, Class, Kind, Message, MessageWriter, Method, TransactionId,
    channel_data::{self, CHANNEL_DATA_HEADER_LEN, ChannelNumber, Frame},
    integrity::{IntegrityKind, Key, PasswordAlgorithm},
};

use super::{
    text,
    wire::{Direction, Packet, Tap, Tapped},
};

/// The channel that a client binds.
pub(super) const CHANNEL: u16 = 0x4000;
/// Longer than any datagram.
const LONGEST: usize = 65_536;
/// REQUESTED-TRANSPORT for UDP (RFC 8656 §18.8).
const UDP: [u8; 4] = [17, 0, 0, 0];

/// What `/voip/turnServer` answers.
#[derive(Clone, Debug)]
pub(super) struct Credential {
    pub(super) username: String,
    pub(super) password: String,
    pub(super) uris: Vec<String>,
    /// The answer itself.
    pub(super) body: String,
}

/// What the relay wants in an authentic request.
#[derive(Clone, Debug)]
pub(super) struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
}

/// A packet of the other's, as the relay brought it.
#[derive(Clone, Debug)]
pub(super) struct Relayed {
    /// Whom it is from, if the relay says so: not in a channel.
    pub(super) from: Option<SocketAddr>,
    pub(super) payload: Vec<u8>,
}

/// An attribute of a request.
#[derive(Clone, Debug)]
pub(super) enum Attribute {
    Raw(AttributeType, Vec<u8>),
    Address(SocketAddr),
}

/// A client with its connection to the relay.
#[derive(Debug)]
pub(super) struct Client {
    transport: Transport,
    tap: Tap,
    address: SocketAddr,
    credential: Credential,
    challenge: Option<Challenge>,
    random: Random,
    /// Messages that came while another was waited for.
    earlier: VecDeque<Vec<u8>>,
    /// All messages that the relay sent, out of TLS.
    read: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum Transport {
    Udp(UdpSocket),
    Tls {
        stream: Box<TlsStream<Tapped>>,
        unread: Vec<u8>,
    },
}

impl Credential {
    /// Reads an answer; none: it is not what the specification says.
    pub(super) fn read(body: String) -> Option<Self> {
        let json: Value = serde_json::from_str(&body).ok()?;
        let text = |member: &str| json[member].as_str().map(str::to_owned);
        let uris = json["uris"].as_array()?.iter();
        Some(Self {
            username: text("username")?,
            password: text("password")?,
            uris: uris
                .filter_map(|uri| uri.as_str().map(str::to_owned))
                .collect(),
            body,
        })
    }

    /// The parts of the username: when it ends, in seconds since 1970, and whom it names.
    pub(super) fn parts(&self) -> (&str, &str) {
        self.username.split_once(':').unwrap_or_default()
    }

    /// The port of the relay for `turn` or `turns`.
    pub(super) fn port(&self, scheme: &str) -> Result<u16, String> {
        let port_of = |uri: &String| {
            let rest = uri.strip_prefix(scheme)?.strip_prefix(':')?;
            let (host, _) = rest.split_once('?')?;
            host.rsplit_once(':')?.1.parse().ok()
        };
        let port = self.uris.iter().find_map(port_of);
        port.ok_or_else(|| format!("no {scheme} among {:?}", self.uris))
    }
}

/// An Allocate request, as it is sent once the relay has said what it wants in it.
pub(super) fn allocate_request(
    credential: &Credential,
    challenge: &Challenge,
    random: &Random,
) -> Vec<u8> {
    signed(
        Method::Allocate,
        &allocate_attributes(),
        credential,
        challenge,
        random,
    )
}

fn allocate_attributes() -> [Attribute; 1] {
    [Attribute::Raw(
        AttributeType::REQUESTED_TRANSPORT,
        UDP.to_vec(),
    )]
}

impl Client {
    /// A client at `from`, or, where that is no address of this machine, on plain loopback.
    pub(super) async fn over_udp(
        from: Ipv4Addr,
        relay: SocketAddr,
        credential: Credential,
        random: &Random,
    ) -> io::Result<Self> {
        let socket = match UdpSocket::bind((from, 0)).await {
            Ok(socket) => socket,
            Err(_) => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        };
        socket.connect(relay).await?;
        let address = socket.local_addr()?;
        let transport = Transport::Udp(socket);
        Ok(Self::new(
            transport,
            Tap::default(),
            address,
            credential,
            random,
        ))
    }

    /// The same, over TLS to a relay of this name.
    pub(super) async fn over_tls(
        from: Ipv4Addr,
        relay: SocketAddr,
        name: &'static str,
        config: Arc<ClientConfig>,
        credential: Credential,
        random: &Random,
    ) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if socket.bind((from, 0).into()).is_err() {
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        }
        let stream = socket.connect(relay).await?;
        stream.set_nodelay(true)?;
        let address = stream.local_addr()?;
        let tap = Tap::default();
        let tapped = Tapped {
            stream,
            tap: tap.clone(),
        };
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, tapped).await?;
        let transport = Transport::Tls {
            stream: Box::new(stream),
            unread: Vec::new(),
        };
        Ok(Self::new(transport, tap, address, credential, random))
    }

    fn new(
        transport: Transport,
        tap: Tap,
        address: SocketAddr,
        credential: Credential,
        random: &Random,
    ) -> Self {
        Self {
            transport,
            tap,
            address,
            credential,
            challenge: None,
            random: random.clone(),
            earlier: VecDeque::new(),
            read: Vec::new(),
        }
    }

    /// Where the client is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// What the relay wanted last.
    pub(super) fn challenge(&self) -> Option<&Challenge> {
        self.challenge.as_ref()
    }

    /// What a listener on the wire has.
    pub(super) fn packets(&self) -> Vec<Packet> {
        self.tap.packets()
    }

    /// What the client itself read.
    pub(super) fn read(&self) -> &[Vec<u8>] {
        &self.read
    }

    /// Makes an allocation (RFC 8656 §7); the address that others reach the client at.
    pub(super) async fn allocate(&mut self) -> Result<SocketAddr, String> {
        let answer = self.ask(Method::Allocate, &allocate_attributes()).await?;
        parse(&answer)?
            .xor_address(AttributeType::XOR_RELAYED_ADDRESS)
            .ok_or_else(|| "the relay told no address".to_owned())
    }

    /// Lets an address send to the client (RFC 8656 §9); the port does not matter.
    pub(super) async fn permit(&mut self, peer: IpAddr) -> Result<(), String> {
        let peer = Attribute::Address(SocketAddr::new(peer, 0));
        self.ask(Method::CreatePermission, &[peer]).await.map(drop)
    }

    /// Gives an address a channel (RFC 8656 §12), which lets it send to the client, too.
    pub(super) async fn bind_channel(&mut self, peer: SocketAddr) -> Result<(), String> {
        let [high, low] = CHANNEL.to_be_bytes();
        let number = Attribute::Raw(AttributeType::CHANNEL_NUMBER, vec![high, low, 0, 0]);
        let attributes = [number, Attribute::Address(peer)];
        self.ask(Method::ChannelBind, &attributes).await.map(drop)
    }

    /// Ends the allocation (RFC 8656 §8).
    pub(super) async fn hang_up(&mut self) -> Result<(), String> {
        let lifetime = Attribute::Raw(AttributeType::LIFETIME, vec![0; 4]);
        self.ask(Method::Refresh, &[lifetime]).await.map(drop)
    }

    /// Ends the connection.
    pub(super) async fn close(&mut self) -> Result<(), String> {
        match &mut self.transport {
            Transport::Udp(_) => Ok(()),
            Transport::Tls { stream, .. } => stream.shutdown().await.map_err(text),
        }
    }

    /// Sends in the channel.
    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<(), String> {
        let number = ChannelNumber::new(CHANNEL).ok_or("no channel has that number")?;
        let len = u16::try_from(payload.len()).map_err(text)?;
        let mut message = channel_data::header(number, len).to_vec();
        message.extend_from_slice(payload);
        self.send_message(&message).await
    }

    /// Sends without one.
    pub(super) async fn send_to(&mut self, peer: SocketAddr, payload: &[u8]) -> Result<(), String> {
        let attributes = [
            Attribute::Address(peer),
            Attribute::Raw(AttributeType::DATA, payload.to_vec()),
        ];
        let mut indication = Vec::new();
        write(
            &mut indication,
            Class::Indication,
            Method::Send,
            &attributes,
            &self.random,
        );
        self.send_message(&indication).await
    }

    /// The next packet of somebody else's.
    pub(super) async fn relayed(&mut self) -> Result<Relayed, String> {
        loop {
            let message = match self.earlier.pop_front() {
                Some(message) => message,
                None => self.receive().await?,
            };
            if let Some(relayed) = relayed(&message) {
                return Ok(relayed);
            }
        }
    }

    /// Asks the relay; its answer, which has to be signed and not an error.
    async fn ask(&mut self, method: Method, attributes: &[Attribute]) -> Result<Vec<u8>, String> {
        let challenge = self.challenged(method, attributes).await?;
        let request = signed(
            method,
            attributes,
            &self.credential,
            &challenge,
            &self.random,
        );
        let answer = self.exchange(&request).await?;
        let message = parse(&answer)?;
        if let Some(code) = error_code(&message) {
            return Err(format!("the relay refuses it: {code}"));
        }
        if !message.is_authentic(&key(&self.credential, &challenge)) {
            return Err("the relay's answer is not signed".to_owned());
        }
        Ok(answer)
    }

    /// What the relay wants in an authentic request: the first request finds it out.
    async fn challenged(
        &mut self,
        method: Method,
        attributes: &[Attribute],
    ) -> Result<Challenge, String> {
        if let Some(challenge) = &self.challenge {
            return Ok(challenge.clone());
        }
        let mut request = Vec::new();
        write(
            &mut request,
            Class::Request,
            method,
            attributes,
            &self.random,
        );
        let answer = self.exchange(&request).await?;
        let challenge = Challenge::of(&parse(&answer)?).ok_or("the relay asks for no username")?;
        Ok(self.challenge.insert(challenge).clone())
    }

    /// Sends a request, and waits for its answer.
    async fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>, String> {
        let id = parse(request)?.transaction_id();
        self.send_message(request).await?;
        loop {
            let message = self.receive().await?;
            let is_answer = Kind::of(&message) == Kind::Stun
                && parse(&message).is_ok_and(|answer| answer.transaction_id() == id);
            if is_answer {
                return Ok(message);
            }
            self.earlier.push_back(message);
        }
    }

    async fn send_message(&mut self, message: &[u8]) -> Result<(), String> {
        match &mut self.transport {
            Transport::Udp(socket) => {
                socket.send(message).await.map_err(text)?;
                self.tap.note(Direction::Sent, message);
            }
            Transport::Tls { stream, .. } => {
                let mut padded = message.to_vec();
                padded.resize(channel_data::padded(message.len()), 0);
                stream.write_all(&padded).await.map_err(text)?;
                stream.flush().await.map_err(text)?;
            }
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Vec<u8>, String> {
        let mut buffer = vec![0; LONGEST];
        let message = match &mut self.transport {
            Transport::Udp(socket) => {
                let len = socket.recv(&mut buffer).await.map_err(text)?;
                buffer.truncate(len);
                self.tap.note(Direction::Received, &buffer);
                buffer
            }
            Transport::Tls { stream, unread } => loop {
                match channel_data::frame(unread) {
                    Frame::Message { len, padded_len } if unread.len() >= padded_len => {
                        let mut message: Vec<_> = unread.drain(..padded_len).collect();
                        message.truncate(len);
                        break message;
                    }
                    Frame::Garbage => return Err("neither STUN nor a channel's data".to_owned()),
                    Frame::Message { .. } | Frame::Incomplete => {}
                }
                match stream.read(&mut buffer).await.map_err(text)? {
                    0 => return Err("the relay ended the connection".to_owned()),
                    len => unread.extend_from_slice(&buffer[..len]),
                }
            },
        };
        self.read.push(message.clone());
        Ok(message)
    }
}

impl Challenge {
    /// What is in a refusal; none: it is another one.
    fn of(refusal: &Message<'_>) -> Option<Self> {
        let value = |attribute| refusal.value(attribute).map(<[u8]>::to_vec);
        Some(Self {
            realm: value(AttributeType::REALM)?,
            nonce: value(AttributeType::NONCE)?,
        })
    }
}

fn signed(
    method: Method,
    attributes: &[Attribute],
    credential: &Credential,
    challenge: &Challenge,
    random: &Random,
) -> Vec<u8> {
    let raw = |attribute, value: &[u8]| Attribute::Raw(attribute, value.to_vec());
    let mut attributes = attributes.to_vec();
    attributes.extend([
        raw(AttributeType::USERNAME, credential.username.as_bytes()),
        raw(AttributeType::REALM, &challenge.realm),
        raw(AttributeType::NONCE, &challenge.nonce),
    ]);
    let mut request = Vec::new();
    write(&mut request, Class::Request, method, &attributes, random)
        .integrity(IntegrityKind::Sha1, &key(credential, challenge));
    request
}

fn key(credential: &Credential, challenge: &Challenge) -> Key {
    let Credential {
        username, password, ..
    } = credential;
    let (username, password) = (username.as_bytes(), password.as_bytes());
    Key::new(PasswordAlgorithm::Md5, username, &challenge.realm, password)
}

fn write<'a>(
    buffer: &'a mut Vec<u8>,
    class: Class,
    method: Method,
    attributes: &[Attribute],
    random: &Random,
) -> MessageWriter<'a> {
    let id = TransactionId(random.bytes());
    let mut writer = MessageWriter::new(buffer, class, method, id);
    for attribute in attributes {
        match attribute {
            Attribute::Raw(attribute, value) => writer.attribute(*attribute, value),
            Attribute::Address(peer) => writer.xor_address(AttributeType::XOR_PEER_ADDRESS, *peer),
        };
    }
    writer
}

fn relayed(message: &[u8]) -> Option<Relayed> {
    if let Some((_, len)) = channel_data::read_header(message) {
        let payload = message.get(CHANNEL_DATA_HEADER_LEN..)?.get(..len)?;
        return Some(Relayed {
            from: None,
            payload: payload.to_vec(),
        });
    }
    let message = parse(message).ok()?;
    if (message.class(), message.method()) != (Class::Indication, Method::Data) {
        return None;
    }
    Some(Relayed {
        from: message.xor_address(AttributeType::XOR_PEER_ADDRESS),
        payload: message.value(AttributeType::DATA)?.to_vec(),
    })
}

/// The code of an error; none: it is none.
pub(super) fn error_code(message: &Message<'_>) -> Option<u16> {
    let value = message.value(AttributeType::ERROR_CODE)?;
    let &[_, _, class, number] = value.first_chunk()?;
    Some(u16::from(class) * 100 + u16::from(number))
}

fn parse(message: &[u8]) -> Result<Message<'_>, String> {
    Message::parse(message).map_err(|error| format!("what came is no STUN: {error}"))
}
