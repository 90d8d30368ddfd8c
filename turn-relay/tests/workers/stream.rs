//! Clients over TCP and TLS.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use turn_relay_proto::stun::channel_data::{Frame, frame};

use crate::client::{Client, PATIENCE, Wire};

/// Messages on a byte stream.
pub(crate) struct Framed<S> {
    pub(crate) stream: S,
    read: Vec<u8>,
}

impl<S> Framed<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// What came behind the messages that were taken.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read)
    }
}

impl<S: Read + Write> Wire for Framed<S> {
    fn send(&mut self, message: &[u8]) {
        self.stream.write_all(message).expect("the relay is there");
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Frame::Message { len, padded_len } = frame(&self.read)
                && self.read.len() >= padded_len
            {
                let mut message: Vec<u8> = self.read.drain(..padded_len).collect();
                message.truncate(len);
                return Some(message);
            }
            let mut buffer = [0; 4_096];
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(len) => self.read.extend_from_slice(&buffer[..len]),
            }
        }
    }
}

pub(crate) fn connect(relay: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(relay).expect("the relay listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream.set_nodelay(true).expect("possible");
    stream
}

pub(crate) fn tcp_client(relay: SocketAddr) -> Client<Framed<TcpStream>> {
    Client::new(Framed::new(connect(relay)))
}

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn tls(stream: TcpStream, config: &Arc<ClientConfig>) -> TlsStream {
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::clone(config), name).expect("a good configuration");
    StreamOwned::new(connection, stream)
}

pub(crate) fn tls_client(
    relay: SocketAddr,
    config: &Arc<ClientConfig>,
) -> Client<Framed<TlsStream>> {
    Client::new(Framed::new(tls(connect(relay), config)))
}
