//! A TURN client that waits for what it asked for.

use std::net::{SocketAddr, UdpSocket};

use turn_relay_proto::{
    credential::Secrets,
    stun::{
        AttributeType, Class, Message, MessageWriter, Method, TransactionId,
        integrity::{IntegrityKind, Key, PasswordAlgorithm},
    },
};

use crate::relay::{PATIENCE, REALM};

/// Whose name must not be in any log.
pub(crate) const USER: &str = "@alice:example.org";

pub(crate) struct Client {
    socket: UdpSocket,
    username: String,
    password: String,
    nonce: Vec<u8>,
    transactions: u8,
}

impl Client {
    pub(crate) fn new(relay: SocketAddr, secret: &str) -> Self {
        let username = format!("4000000000:{USER}");
        let secrets = Secrets::new(vec![secret.as_bytes().to_vec()]);
        let password = secrets.password(username.as_bytes()).to_string();
        Self::with_credential(relay, &username, &password)
    }

    pub(crate) fn with_credential(relay: SocketAddr, username: &str, password: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(relay).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            username: username.to_owned(),
            password: password.to_owned(),
            nonce: Vec::new(),
            transactions: 0,
        }
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// The relayed address, or the code of the error.
    pub(crate) fn allocate(&mut self) -> Result<SocketAddr, u16> {
        let answer = self.ask(Method::Allocate, &|writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        })?;
        let message = Message::parse(&answer).unwrap();
        Ok(message
            .xor_address(AttributeType::XOR_RELAYED_ADDRESS)
            .unwrap())
    }

    /// Refreshes the allocation for so many seconds; the code of the error.
    pub(crate) fn refresh(&mut self, seconds: u32) -> Result<(), u16> {
        self.ask(Method::Refresh, &|writer| {
            writer.attribute(AttributeType::LIFETIME, &seconds.to_be_bytes());
        })
        .map(drop)
    }

    pub(crate) fn permit(&mut self, peer: SocketAddr) -> Result<(), u16> {
        self.ask(Method::CreatePermission, &|writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
        .map(drop)
    }

    /// Sends data to a peer, and sees that it comes from `relayed`, and that an answer comes back.
    pub(crate) fn talk(&mut self, peer: &UdpSocket, relayed: SocketAddr) {
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(
            &mut bytes,
            Class::Indication,
            Method::Send,
            TransactionId([99; 12]),
        );
        writer
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer.local_addr().unwrap())
            .attribute(AttributeType::DATA, b"to the peer");
        self.socket.send(&bytes).unwrap();
        let mut buffer = [0; 2_000];
        let (length, from) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"to the peer"[..], relayed));
        peer.send_to(b"to the client", relayed).unwrap();
        let length = self.socket.recv(&mut buffer).unwrap();
        let message = Message::parse(&buffer[..length]).unwrap();
        assert_eq!(message.method(), Method::Data);
        assert_eq!(
            message.value(AttributeType::DATA),
            Some(&b"to the client"[..])
        );
    }

    /// Asks, and once more where the relay gives a nonce. The success, or the code of the error.
    fn ask(
        &mut self,
        method: Method,
        attributes: &dyn Fn(&mut MessageWriter<'_>),
    ) -> Result<Vec<u8>, u16> {
        let mut code = 0;
        for _ in 0..2 {
            let request = self.request(method, attributes);
            self.socket.send(&request).unwrap();
            let mut buffer = [0; 2_000];
            let length = self.socket.recv(&mut buffer).unwrap();
            let message = Message::parse(&buffer[..length]).unwrap();
            if message.class() == Class::Success {
                return Ok(buffer[..length].to_vec());
            }
            let value = message.value(AttributeType::ERROR_CODE).unwrap();
            code = u16::from(value[2]) * 100 + u16::from(value[3]);
            match message.value(AttributeType::NONCE) {
                Some(nonce) => self.nonce = nonce.to_vec(),
                None => break,
            }
        }
        Err(code)
    }

    fn request(&mut self, method: Method, attributes: &dyn Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        self.transactions += 1;
        let id = TransactionId([self.transactions; 12]);
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, id);
        attributes(&mut writer);
        if !self.nonce.is_empty() {
            let key = Key::new(
                PasswordAlgorithm::Md5,
                self.username.as_bytes(),
                REALM.as_bytes(),
                self.password.as_bytes(),
            );
            writer
                .attribute(AttributeType::USERNAME, self.username.as_bytes())
                .attribute(AttributeType::REALM, REALM.as_bytes())
                .attribute(AttributeType::NONCE, &self.nonce)
                .integrity(IntegrityKind::Sha1, &key);
        }
        bytes
    }
}
