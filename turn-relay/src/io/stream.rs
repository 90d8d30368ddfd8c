//! One TCP connection, in clear or encrypted: bytes in, whole messages out, and a bound on what waits for a slow reader.
//!
//! It knows no message format: a message is what is either sent in full or not at all.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, ErrorKind, IoSlice, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::Arc,
};

use rustls::{
    ServerConfig, ServerConnection,
    server::{AcceptedAlert, Acceptor},
};
use turn_relay_proto::effect::Purpose;

use crate::certificates::for_client;

/// Bytes that are read at once.
pub const READ: usize = 65_536;

/// The most that [`Stream::read`] gives at once: what was read, and a TLS record of which the beginning had come before.
pub const MAX_READ: usize = READ + 32_768;

/// Plaintext that is encrypted at once while the client is slow: one TLS record.
const RECORD: usize = 16_384;

/// A queue that is empty again gives back its memory beyond this.
const SMALL: usize = 4_096;

/// A connection that does not block.
pub struct Stream {
    socket: TcpStream,
    hello: Option<Hello>,
    tls: Option<Box<ServerConnection>>,
    /// What the system did not take yet; not encrypted yet if it will be.
    waiting: VecDeque<u8>,
    /// Whether what was written is not all that there should have been.
    is_cut_off: bool,
}

/// A TLS client of which nothing is known yet: how it is served depends on what it says first.
struct Hello {
    acceptor: Acceptor,
    config: Arc<ServerConfig>,
    takes_http: bool,
}

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// Bytes, not encrypted.
    pub len: usize,
    /// Bytes as they came.
    pub taken: usize,
    /// What is to be expected.
    pub then: Then,
}

/// Whether a stream has more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Perhaps: it has to be read again.
    More,
    /// Nothing now.
    Nothing,
    /// Nothing ever: the other side has closed.
    End,
}

/// What came of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Messages for which there was no space.
    pub lost: usize,
    /// Whether the connection is of no use any more.
    pub broken: bool,
}

impl Stream {
    /// A connection in clear.
    #[must_use]
    pub const fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            hello: None,
            tls: None,
            waiting: VecDeque::new(),
            is_cut_off: false,
        }
    }

    /// The connection itself. What waits is lost.
    #[must_use]
    pub fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// From now on the client speaks TLS, and is served by `config`, as [`for_client`] fits it to the client and to
    /// whether HTTP is spoken here.
    pub fn encrypt(&mut self, config: Arc<ServerConfig>, takes_http: bool) {
        self.hello = Some(Hello {
            acceptor: Acceptor::default(),
            config,
            takes_http,
        });
    }

    /// What was agreed on as spoken inside of TLS (RFC 7301).
    #[must_use]
    pub fn protocol(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.alpn_protocol()
    }

    /// The end of the connection that is here.
    ///
    /// # Errors
    ///
    /// If the system does not tell.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether the client speaks TLS.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.hello.is_some() || self.tls.is_some()
    }

    /// Whether there is a TLS handshake that is not done.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.hello.is_some() || self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Reads once, no more than `most` bytes, which are 1 to [`READ`], into `plain`, which has at least [`MAX_READ`] bytes.
    /// `cipher` has [`READ`] bytes, and is used for what is encrypted.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    pub fn read(&mut self, plain: &mut [u8], cipher: &mut [u8], most: usize) -> io::Result<Input> {
        let first = if self.is_encrypted() {
            &mut cipher[..most]
        } else {
            &mut plain[..most]
        };
        let len = match uninterrupted(|| self.socket.read(first)) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(Input {
                    len: 0,
                    taken: 0,
                    then: Then::Nothing,
                });
            }
            Err(error) => return Err(error),
        };
        let then = match len {
            0 => Then::End,
            _ if len == most => Then::More,
            _ => Then::Nothing,
        };
        if self.is_encrypted() {
            self.decrypt(&cipher[..len], plain, then)
        } else {
            Ok(Input {
                len,
                taken: len,
                then,
            })
        }
    }

    /// As [`Self::read`], of bytes that were read already.
    ///
    /// # Errors
    ///
    /// If they are not TLS.
    pub fn decrypt(
        &mut self,
        mut cipher: &[u8],
        plain: &mut [u8],
        mut then: Then,
    ) -> io::Result<Input> {
        let taken = cipher.len();
        if self.hello.is_some() {
            self.listen(&mut cipher)?;
        }
        if self.hello.is_some() {
            let len = 0;
            return Ok(Input { len, taken, then });
        }
        let Some(tls) = &mut self.tls else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let mut len = 0;
        // what answers the first message
        write_tls(tls, &mut self.socket)?;
        while !cipher.is_empty() {
            if tls.read_tls(&mut cipher)? == 0 {
                // nothing counts behind a close_notify
                then = Then::End;
                break;
            }
            let result = tls.process_new_packets();
            if tls.wants_write() {
                // the handshake, or an alert that says what is wrong
                write_tls(tls, &mut self.socket)?;
            }
            result.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            loop {
                match tls.reader().read(&mut plain[len..]) {
                    Ok(0) => {
                        then = Then::End;
                        break;
                    }
                    Ok(more) => len += more,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Input { len, taken, then })
    }

    /// Reads the first message of a TLS client, from which the session begins.
    fn listen(&mut self, cipher: &mut &[u8]) -> io::Result<()> {
        let Some(Hello {
            acceptor,
            config,
            takes_http,
        }) = &mut self.hello
        else {
            return Ok(());
        };
        let mut refuse = |(error, mut alert): (rustls::Error, AcceptedAlert)| {
            // says what is wrong; whoever does not take it sees the connection end
            let _ = alert.write_all(&mut self.socket);
            io::Error::new(ErrorKind::InvalidData, error)
        };
        while !cipher.is_empty() {
            acceptor.read_tls(cipher)?;
            if let Some(accepted) = acceptor.accept().map_err(&mut refuse)? {
                let config = for_client(config, &accepted.client_hello(), *takes_http);
                let mut tls = accepted.into_connection(config).map_err(&mut refuse)?;
                // what may wait is bounded here
                tls.set_buffer_limit(None);
                self.tls = Some(Box::new(tls));
                self.hello = None;
                break;
            }
        }
        Ok(())
    }

    /// Has bytes written by the next [flush](Self::flush).
    pub fn keep(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
    }

    /// Forgets what waits to be written.
    pub fn discard(&mut self) {
        self.waiting = VecDeque::new();
    }

    /// Notes that the other side must not take what it got for everything.
    pub const fn cut_off(&mut self) {
        self.is_cut_off = true;
    }

    /// Writes messages, each in full or, if `limit` bytes wait already, not at all.
    pub fn write(&mut self, messages: &[IoSlice<'_>], limit: usize, purpose: Purpose) -> Output {
        let mut output = Output::default();
        let mut written = 0;
        if self.waiting.is_empty() {
            match self.write_now(messages) {
                Ok(len) => written = len,
                Err(_) => output.broken = true,
            }
        }
        for message in messages {
            let begun = written.min(message.len());
            written -= begun;
            let rest = &message[begun..];
            if rest.is_empty() {
                continue;
            }
            // what has begun has to be finished
            if begun > 0 || self.waiting.len() + rest.len() <= limit {
                self.waiting.extend(rest);
            } else {
                output.lost += 1;
                output.broken |= purpose == Purpose::Answer;
            }
        }
        output
    }

    /// How many bytes need not be dealt with any more.
    fn write_now(&mut self, messages: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.hello.is_some() {
            return Ok(0);
        }
        let Some(tls) = &mut self.tls else {
            return match uninterrupted(|| self.socket.write_vectored(messages)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
                result => result,
            };
        };
        if tls.wants_write() || tls.is_handshaking() {
            return Ok(0);
        }
        let len = tls.writer().write_vectored(messages)?;
        write_tls(tls, &mut self.socket)?;
        Ok(len)
    }

    /// Writes what waits. The result is whether nothing waits any more.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    pub fn flush(&mut self) -> io::Result<bool> {
        loop {
            if let Some(tls) = &mut self.tls {
                write_tls(tls, &mut self.socket)?;
                if tls.wants_write() {
                    return Ok(false);
                }
            }
            let (next, _) = self.waiting.as_slices();
            if next.is_empty() {
                if self.waiting.capacity() > SMALL {
                    self.waiting.shrink_to(0);
                }
                return Ok(true);
            }
            let len = match &mut self.tls {
                Some(tls) => {
                    let record = &next[..next.len().min(RECORD)];
                    tls.writer().write(record)?
                }
                None => match uninterrupted(|| self.socket.write(next)) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(len) => len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                },
            };
            self.waiting.drain(..len);
        }
    }

    /// Whether nothing waits to be written.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.waiting.is_empty() && self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Says that nothing more will be written. What waits is lost. Whoever was [cut off](Self::cut_off) is not told that
    /// it was everything (RFC 8446 §6.1).
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls
            && !self.is_cut_off
        {
            tls.send_close_notify();
            // whoever does not take it sees the connection end
            let _ = write_tls(tls, &mut self.socket);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Shows no bytes.
impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("encrypted", &self.is_encrypted())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// Writes what is encrypted, as far as the system takes it.
fn write_tls(tls: &mut ServerConnection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match uninterrupted(|| tls.write_tls(socket)) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A signal is no reason to wait for the poll: it does not tell again of what it has told.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
