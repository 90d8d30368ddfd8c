//! A TURN client over TCP or TLS.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{
    client::{Ask, Client, Patience, Then},
    relay::{NAME, Relay},
    stun::Message,
};

/// A relay may take so long to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is below TURN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Tls,
}

/// A client with a connection of its own.
pub(crate) struct StreamClient {
    connection: Connection,
    client: Client,
    requests: u8,
}

enum Connection {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    pub(crate) const ALL: [Self; 2] = [Self::Tcp, Self::Tls];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

impl StreamClient {
    /// Connects, and gets an allocation and a channel to `peer`.
    pub(crate) fn connect(
        relay: &Relay,
        transport: Transport,
        tls: &Arc<ClientConfig>,
        (channel, peer): (u16, SocketAddrV4),
    ) -> Result<Self> {
        let address = match transport {
            Transport::Tcp => relay.address,
            Transport::Tls => relay.tls,
        };
        let stream = TcpStream::connect(address).context("connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let SocketAddr::V4(own) = stream.local_addr()? else {
            bail!("a connection over IPv4");
        };
        let connection = match transport {
            Transport::Tcp => Connection::Tcp(stream),
            Transport::Tls => {
                let name = ServerName::try_from(NAME)?;
                let session = ClientConnection::new(Arc::clone(tls), name)?;
                Connection::Tls(Box::new(StreamOwned::new(session, stream)))
            }
        };
        let mut client = Self {
            connection,
            client: Client::new(own, relay.credentials("stream")),
            requests: 0,
        };
        client.ask(Ask::Allocate {
            lifetime: Duration::from_hours(1),
        })?;
        client.ask(Ask::Bind { channel, peer })?;
        client.stream().set_nonblocking(true)?;
        Ok(client)
    }

    /// Its relayed address.
    pub(crate) fn relayed(&self) -> Result<SocketAddrV4> {
        self.client.relayed.context("an allocation")
    }

    /// What TLS agreed on; nothing over TCP.
    pub(crate) fn cipher(&self) -> Option<String> {
        match &self.connection {
            Connection::Tcp(_) => None,
            Connection::Tls(stream) => stream
                .conn
                .negotiated_cipher_suite()
                .map(|suite| format!("{:?}", suite.suite())),
        }
    }

    /// Writes as much as goes without waiting.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        not_yet(match &mut self.connection {
            Connection::Tcp(stream) => stream.write(bytes),
            Connection::Tls(stream) => stream.write(bytes),
        })
    }

    /// Reads what is there without waiting.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        not_yet(match &mut self.connection {
            Connection::Tcp(stream) => ended(stream.read(buffer)),
            Connection::Tls(stream) => ended(stream.read(buffer)),
        })
    }

    /// Makes a request and waits for the answer.
    fn ask(&mut self, ask: Ask) -> Result<()> {
        let mut patience = Patience::default();
        loop {
            self.requests += 1;
            let transaction = [self.requests; 12];
            let bytes = self.client.request(ask, transaction);
            let answer = match &mut self.connection {
                Connection::Tcp(stream) => exchange(stream, &bytes),
                Connection::Tls(stream) => exchange(stream.as_mut(), &bytes),
            };
            let answer = answer.with_context(|| format!("{ask:?}"))?;
            let message = Message::read(&answer).context("a STUN message")?;
            if message.transaction != transaction {
                bail!("an answer to another request");
            }
            match self.client.take(ask, &message)? {
                Then::Done => return Ok(()),
                Then::Again if patience.again() => {}
                Then::Again => bail!("{ask:?}: every nonce is stale"),
                Then::Refused(code) => bail!("{ask:?}: {code}"),
            }
        }
    }

    fn stream(&self) -> &TcpStream {
        match &self.connection {
            Connection::Tcp(stream) => stream,
            Connection::Tls(stream) => stream.get_ref(),
        }
    }
}

/// Writes a request and reads one message.
fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut answer = vec![0; 20];
    stream.read_exact(&mut answer)?;
    let [_, _, high, low, ..] = answer.as_slice() else {
        return Err(ErrorKind::UnexpectedEof.into());
    };
    let body = usize::from(u16::from_be_bytes([*high, *low]));
    answer.resize(20 + body, 0);
    stream.read_exact(answer.get_mut(20..).unwrap_or_default())?;
    Ok(answer)
}

fn not_yet(done: io::Result<usize>) -> io::Result<usize> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        done => done,
    }
}

fn ended(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        read => read,
    }
}
