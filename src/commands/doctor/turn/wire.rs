//! UDP, TCP and TLS to a TURN server, message by message.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use turn_relay_proto::stun::channel_data::{Frame, frame};

use super::client::Fault;

/// Longer than any message that doctor asks for.
const LONGEST: usize = 64 * 1024;

/// A connection to a server.
pub(crate) enum Wire {
    Udp(UdpSocket),
    Stream {
        stream: Box<dyn Stream>,
        unread: Vec<u8>,
    },
}

/// TCP, or TLS on it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Wire {
    /// A socket of its own, from which `server` alone is heard.
    pub(crate) async fn udp(server: SocketAddr) -> Result<Self, Fault> {
        let any: IpAddr = match server.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await.map_err(Fault::Connection)?;
        socket.connect(server).await.map_err(Fault::Connection)?;
        Ok(Self::Udp(socket))
    }

    pub(crate) async fn tcp(server: SocketAddr, limit: Duration) -> Result<Self, Fault> {
        let stream = connect(server, limit).await?;
        Ok(Self::of(stream))
    }

    /// TLS, with the certificate checked for `host`.
    pub(crate) async fn tls(
        server: SocketAddr,
        host: &str,
        config: Arc<ClientConfig>,
        limit: Duration,
    ) -> Result<Self, Fault> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| Fault::Tls(io::Error::other(error)))?;
        let stream = connect(server, limit).await?;
        let stream = timeout(limit, TlsConnector::from(config).connect(name, stream))
            .await
            .map_err(|_| Fault::Tls(io::ErrorKind::TimedOut.into()))?
            .map_err(Fault::Tls)?;
        Ok(Self::of(stream))
    }

    fn of(stream: impl Stream + 'static) -> Self {
        Self::Stream {
            stream: Box::new(stream),
            unread: Vec::new(),
        }
    }

    pub(crate) const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }

    /// Where the other side sees this one, unless somebody between them translates addresses.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(socket) => socket.local_addr().ok(),
            Self::Stream { .. } => None,
        }
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Udp(socket) => socket.send(message).await.map(|_| ()),
            Self::Stream { stream, .. } => match stream.write_all(message).await {
                Ok(()) => stream.flush().await,
                Err(error) => Err(error),
            },
        }
        .map_err(Fault::Connection)
    }

    /// The next message; it may be dropped at any time without losing one.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Udp(socket) => {
                let mut buffer = vec![0; LONGEST];
                let len = socket.recv(&mut buffer).await.map_err(Fault::Connection)?;
                buffer.truncate(len);
                Ok(buffer)
            }
            Self::Stream { stream, unread } => loop {
                match frame(unread) {
                    Frame::Message { len, padded_len } if unread.len() >= padded_len => {
                        let mut message: Vec<_> = unread.drain(..padded_len).collect();
                        message.truncate(len);
                        return Ok(message);
                    }
                    Frame::Message { .. } | Frame::Incomplete => {}
                    Frame::Garbage => return Err(Fault::Nonsense),
                }
                let mut chunk = [0; 4096];
                match stream.read(&mut chunk).await {
                    Ok(0) => return Err(Fault::Closed),
                    Ok(len) => unread.extend_from_slice(chunk.get(..len).unwrap_or_default()),
                    Err(error) => return Err(Fault::Connection(error)),
                }
            },
        }
    }
}

/// A TCP connection.
pub(crate) async fn connect(server: SocketAddr, limit: Duration) -> Result<TcpStream, Fault> {
    timeout(limit, TcpStream::connect(server))
        .await
        .map_err(|_| Fault::Connection(io::ErrorKind::TimedOut.into()))?
        .map_err(Fault::Connection)
}
