//! A TURN client that waits for what it asked for.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use turn_relay_proto::{
    credential::Secrets,
    stun::{
        AttributeType, Class, Message, MessageWriter, Method, TransactionId,
        channel_data::{ChannelNumber, header},
        integrity::{IntegrityKind, Key, PasswordAlgorithm},
    },
};

use crate::relay::{REALM, SECRET};

/// How long anything that has to come is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How a client reaches the relay.
pub(crate) trait Wire {
    /// Sends one message.
    fn send(&mut self, message: &[u8]);
    /// The next message; `None` if none comes.
    fn receive(&mut self) -> Option<Vec<u8>>;
}

impl Wire for UdpSocket {
    fn send(&mut self, message: &[u8]) {
        Self::send(self, message).expect("the relay is there");
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let len = self.recv(&mut buffer).ok()?;
        buffer.truncate(len);
        Some(buffer)
    }
}

pub(crate) struct Client<W> {
    pub(crate) wire: W,
    username: String,
    password: String,
    nonce: Vec<u8>,
    transactions: u8,
}

/// A UDP client of the relay at `relay`.
pub(crate) fn udp_client(relay: SocketAddr) -> Client<UdpSocket> {
    let any = if relay.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).expect("a free port");
    socket.connect(relay).expect("loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    Client::new(socket)
}

impl<W: Wire> Client<W> {
    pub(crate) fn new(wire: W) -> Self {
        let username = "4000000000:alice".to_owned();
        let secrets = Secrets::new(vec![SECRET.to_vec()]);
        let password = secrets.password(username.as_bytes()).to_string();
        Self {
            wire,
            username,
            password,
            nonce: Vec::new(),
            transactions: 0,
        }
    }

    fn key(&self) -> Key {
        Key::new(
            PasswordAlgorithm::Md5,
            self.username.as_bytes(),
            REALM.as_bytes(),
            self.password.as_bytes(),
        )
    }

    /// A message with credentials, if there is a nonce.
    pub(crate) fn request(
        &mut self,
        method: Method,
        attributes: &dyn Fn(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        self.transactions += 1;
        let id = TransactionId([self.transactions; 12]);
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, id);
        attributes(&mut writer);
        if !self.nonce.is_empty() {
            writer
                .attribute(AttributeType::USERNAME, self.username.as_bytes())
                .attribute(AttributeType::REALM, REALM.as_bytes())
                .attribute(AttributeType::NONCE, &self.nonce)
                .integrity(IntegrityKind::Sha1, &self.key());
        }
        bytes
    }

    /// Asks, and once more when the relay gives a nonce; the answer.
    pub(crate) fn ask(
        &mut self,
        method: Method,
        attributes: &dyn Fn(&mut MessageWriter<'_>),
    ) -> Answer {
        self.try_to_ask(method, attributes)
            .expect("the relay takes the credentials")
    }

    /// As [`Self::ask`]; `None` if the relay does not take the credentials.
    pub(crate) fn try_to_ask(
        &mut self,
        method: Method,
        attributes: &dyn Fn(&mut MessageWriter<'_>),
    ) -> Option<Answer> {
        for _ in 0..2 {
            let request = self.request(method, attributes);
            self.wire.send(&request);
            let answer = self.answer();
            let message = answer.message();
            match message.value(AttributeType::NONCE) {
                Some(nonce) if message.class() == Class::Error => self.nonce = nonce.to_vec(),
                _ => return Some(answer),
            }
        }
        None
    }

    /// The next message that is an answer.
    pub(crate) fn answer(&mut self) -> Answer {
        loop {
            let bytes = self.wire.receive().expect("an answer comes");
            let answer = Answer(bytes);
            if matches!(answer.0.first(), Some(0..=3))
                && answer.message().class() != Class::Indication
            {
                return answer;
            }
        }
    }

    /// Makes an allocation; the relayed address.
    pub(crate) fn allocate(&mut self) -> SocketAddr {
        self.allocate_with(&|writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        })
    }

    pub(crate) fn allocate_with(
        &mut self,
        attributes: &dyn Fn(&mut MessageWriter<'_>),
    ) -> SocketAddr {
        let answer = self.ask(Method::Allocate, attributes);
        let message = answer.message();
        assert_eq!(message.class(), Class::Success, "{message:?}");
        message
            .xor_address(AttributeType::XOR_RELAYED_ADDRESS)
            .expect("a relayed address")
    }

    pub(crate) fn permit(&mut self, peer: SocketAddr) {
        let answer = self.ask(Method::CreatePermission, &|writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        assert_eq!(answer.message().class(), Class::Success);
    }

    pub(crate) fn bind(&mut self, number: u16, peer: SocketAddr) -> Channel {
        let answer = self.ask(Method::ChannelBind, &|writer| {
            let [high, low] = number.to_be_bytes();
            writer
                .attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0])
                .xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        assert_eq!(answer.message().class(), Class::Success);
        Channel(ChannelNumber::new(number).expect("of the range"))
    }

    /// The payload of the next ChannelData message.
    pub(crate) fn channel_data(&mut self) -> Option<Vec<u8>> {
        loop {
            let bytes = self.wire.receive()?;
            if let Some((_, len)) = turn_relay_proto::stun::channel_data::read_header(&bytes) {
                return Some(bytes[4..4 + len].to_vec());
            }
        }
    }

    /// The next indication of that method.
    pub(crate) fn indication(&mut self, method: Method) -> Answer {
        loop {
            let answer = Answer(self.wire.receive().expect("an indication comes"));
            if matches!(answer.0.first(), Some(0..=3)) {
                let message = answer.message();
                if message.class() == Class::Indication && message.method() == method {
                    return answer;
                }
            }
        }
    }
}

/// A STUN message from the relay.
pub(crate) struct Answer(Vec<u8>);

impl Answer {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.0).expect("the relay sends well-formed messages")
    }
}

/// A bound channel.
#[derive(Clone, Copy)]
pub(crate) struct Channel(ChannelNumber);

impl Channel {
    /// ChannelData, padded as streams need it.
    pub(crate) fn message(self, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).expect("short");
        let mut message = header(self.0, len).to_vec();
        message.extend_from_slice(payload);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }
}

/// A Send indication.
pub(crate) fn send_indication(peer: SocketAddr, payload: &[u8], dont_fragment: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let id = TransactionId([99; 12]);
    let mut writer = MessageWriter::new(&mut bytes, Class::Indication, Method::Send, id);
    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
    if dont_fragment {
        writer.attribute(AttributeType::DONT_FRAGMENT, &[]);
    }
    writer.attribute(AttributeType::DATA, payload);
    bytes
}
