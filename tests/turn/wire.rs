//! How a client's messages get to the relay and back: as datagrams, on a stream in clear, on a stream in TLS.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use socket2::{Domain, Socket, Type};

use crate::time::{PATIENCE, now};

/// A client's end.
pub(crate) enum Wire {
    Udp(UdpSocket),
    Tcp(Framed<TcpStream>),
    Tls(Box<Framed<StreamOwned<ClientConnection, TcpStream>>>),
}

/// A stream, and what came of a message that is not whole.
pub(crate) struct Framed<S> {
    pub(crate) stream: S,
    unread: Vec<u8>,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Message(Vec<u8>),
    /// The relay closed the connection.
    Closed,
    /// Nothing within the time.
    Nothing,
}

/// A UDP socket of a client on this host.
pub(crate) fn udp(relay: SocketAddr) -> Wire {
    udp_from(any(relay), relay)
}

/// A UDP socket of a client at a local address.
pub(crate) fn udp_from(local: IpAddr, relay: SocketAddr) -> Wire {
    let socket = UdpSocket::bind((local, 0)).unwrap();
    socket.connect(relay).unwrap();
    Wire::Udp(socket)
}

/// A TCP connection in clear.
pub(crate) fn tcp(relay: SocketAddr) -> Wire {
    tcp_on(connect(relay))
}

/// As [`tcp`], on a connection that there is.
pub(crate) fn tcp_on(stream: TcpStream) -> Wire {
    Wire::Tcp(Framed {
        stream,
        unread: Vec::new(),
    })
}

/// A TLS connection to `localhost`, whatever the address.
pub(crate) fn tls(relay: SocketAddr, config: &Arc<ClientConfig>) -> Wire {
    try_tls(connect(relay), config).unwrap()
}

/// As [`tls`], on a connection that there is; the handshake is over when this returns.
pub(crate) fn try_tls(stream: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Wire> {
    try_tls_to("localhost", stream, config)
}

/// As [`try_tls`], to a server of another name.
pub(crate) fn try_tls_to(
    name: &str,
    mut stream: TcpStream,
    config: &Arc<ClientConfig>,
) -> io::Result<Wire> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(Wire::Tls(Box::new(Framed {
        stream: StreamOwned::new(connection, stream),
        unread: Vec::new(),
    })))
}

/// A TCP connection that waits for nothing for ever.
pub(crate) fn connect(relay: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&relay, PATIENCE).unwrap())
}

/// As [`connect`], from a local address of the test's choice.
pub(crate) fn connect_from(local: IpAddr, relay: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(relay), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(local, 0).into()).unwrap();
    socket.connect_timeout(&relay.into(), PATIENCE).unwrap();
    patient(socket.into())
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The unspecified address of the family.
fn any(of: SocketAddr) -> IpAddr {
    match of {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Wire {
    /// Sends one message, which must be padded where it is ChannelData on a stream.
    pub(crate) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Tcp(framed) => framed.stream.write_all(message),
            Self::Tls(framed) => {
                framed.stream.write_all(message)?;
                framed.stream.flush()
            }
        }
    }

    /// The next message that comes within the time.
    pub(crate) fn receive(&mut self, within: Duration) -> Received {
        match self {
            Self::Udp(socket) => receive_datagram(socket, within),
            Self::Tcp(framed) => {
                let socket = framed.stream.try_clone().unwrap();
                framed.receive(&socket, within)
            }
            Self::Tls(framed) => {
                let socket = framed.stream.sock.try_clone().unwrap();
                framed.receive(&socket, within)
            }
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        !matches!(self, Self::Udp(_))
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp(framed) => framed.stream.local_addr(),
            Self::Tls(framed) => framed.stream.sock.local_addr(),
        }
        .unwrap()
    }

    /// The connection in clear, as it is behind a ConnectionBind request (RFC 6062 §4.4), and what came of it already.
    pub(crate) fn into_tcp(self) -> (TcpStream, Vec<u8>) {
        match self {
            Self::Tcp(framed) => (framed.stream, framed.unread),
            Self::Udp(_) | Self::Tls(_) => panic!("not a TCP connection"),
        }
    }

    /// Ends a stream, in both directions.
    pub(crate) fn close(&self) {
        let socket = match self {
            Self::Udp(_) => return,
            Self::Tcp(framed) => &framed.stream,
            Self::Tls(framed) => &framed.stream.sock,
        };
        // it may have been closed from the other side
        let _ = socket.shutdown(Shutdown::Both);
    }
}

fn receive_datagram(socket: &UdpSocket, within: Duration) -> Received {
    let deadline = now() + within;
    let mut buffer = vec![0; 65_536];
    loop {
        let left = deadline.saturating_duration_since(now());
        socket
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .unwrap();
        match socket.recv(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Received::Message(buffer);
            }
            Err(_) if left.is_zero() => return Received::Nothing,
            // an ICMP error of an earlier datagram, or the time that is looked at above
            Err(_) => {}
        }
    }
}

impl<S: Read> Framed<S> {
    fn receive(&mut self, socket: &TcpStream, within: Duration) -> Received {
        let deadline = now() + within;
        loop {
            if let Some(len) = message_len(&self.unread)
                && self.unread.len() >= len
            {
                let rest = self.unread.split_off(len);
                return Received::Message(std::mem::replace(&mut self.unread, rest));
            }
            let left = deadline.saturating_duration_since(now());
            socket
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .unwrap();
            let mut buffer = vec![0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Received::Closed,
                Ok(len) => self.unread.extend_from_slice(&buffer[..len]),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) =>
                {
                    if left.is_zero() {
                        return Received::Nothing;
                    }
                }
                Err(_) => return Received::Closed,
            }
        }
    }
}

/// How long the message is that begins there, with its padding: RFC 8489 §5, RFC 8656 §12.5.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let [first, _, high, low, ..] = bytes else {
        return None;
    };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    Some(match first {
        0..=3 => 20 + len,
        64..=79 => 4 + len.next_multiple_of(4),
        _ => panic!("the relay sends neither STUN nor ChannelData: {first}"),
    })
}
