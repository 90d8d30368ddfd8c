//! DTLS 1.2 towards clients (RFC 6347, RFC 7350): records in, messages out.
//!
//! `dimpl` keeps the sessions. What comes before there is one, and must not store anything, is in [`hello`]. DTLS 1.3 is not offered: its
//! cookie is part of what both sides prove to have seen, so that whoever sends it keeps a session from the first packet on.

use std::{cell::Cell, fmt, net::SocketAddr, sync::Arc, time::Instant};

use dimpl::{
    Config, CryptoError, Dtls, DtlsCertificate, Error,
    crypto::{CryptoProvider, HashAlgorithm, HmacProvider, aws_lc_rs},
};
use turn_relay_proto::{FiveTuple, Link, Time, Transport};
use zeroize::Zeroize as _;

pub use dimpl::Output;

use self::hello::{COOKIE, ClientHello, FIRST_HELLO};
use super::strangers::Stranger;

pub mod hello;
pub mod sessions;

/// By how many bytes a record is longer than what is in it, at the least (ChaCha20-Poly1305: header and tag).
pub const OVERHEAD: usize = 29;

/// The longest message that fits into a record (RFC 6347 §4.1.1).
pub const MAX_MESSAGE: usize = 16_384;

/// The most messages in one datagram.
pub const MAX_MESSAGES: usize = 8;

/// The longest datagram of a handshake that a client is sent: it gets through wherever IPv6 does.
const HANDSHAKE_DATAGRAM: usize = 1_200;

/// The longest datagram that counts before a session is there: no handshake of a client without a certificate has a longer one.
const MAX_HANDSHAKE_DATAGRAM: usize = 2_048;

/// Datagrams of a handshake that wait for others that were sent before them. Whoever sends as many of the longest makes its session take
/// some 60 kB.
const WAITING: usize = 8;

/// What new sessions are served with.
pub struct ServerConfig {
    config: Arc<Config>,
    certificate: DtlsCertificate,
}

impl ServerConfig {
    /// With a certificate and its key, both DER; `None` if the key is none that is supported: ECDSA on P-256 or P-384, PKCS#8 or SEC 1.
    #[must_use]
    pub fn new(certificate: &[u8], key: &[u8]) -> Option<Self> {
        let provider = CryptoProvider {
            hmac_provider: &CookieHmac,
            ..aws_lc_rs::default_provider()
        };
        provider.key_provider.load_private_key(key).ok()?;
        let config = Config::builder()
            .with_crypto_provider(provider)
            .mtu(HANDSHAKE_DATAGRAM)
            .max_queue_rx(WAITING)
            .require_client_certificate(false)
            .use_server_cookie(true)
            .dtls13_cipher_suites(&[])
            .build()
            .ok()?;
        Some(Self {
            config: Arc::new(config),
            certificate: DtlsCertificate {
                certificate: certificate.to_vec(),
                private_key: key.to_vec(),
            },
        })
    }
}

impl Drop for ServerConfig {
    fn drop(&mut self) {
        self.certificate.private_key.zeroize();
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerConfig")
    }
}

thread_local! {
    /// The cookie that the session takes which is given a datagram just now.
    static COOKIE_TO_TAKE: Cell<Option<[u8; COOKIE]>> = const { Cell::new(None) };
}

/// HMAC, which says of the cookie that was checked already that it is the one that the session would have made.
///
/// `dimpl` computes its cookies with a key of each session, where they are to be the same without one.
#[derive(Debug)]
struct CookieHmac;

impl HmacProvider for CookieHmac {
    /// What a cookie is computed with: the first thing that is, of a session that waits for one.
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match COOKIE_TO_TAKE.take() {
            Some(cookie) => Ok(cookie),
            None => aws_lc_rs::default_provider()
                .hmac_provider
                .hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        aws_lc_rs::default_provider()
            .hmac_provider
            .hmac(hash, key, data, out)
    }
}

/// One client's session.
pub struct Session {
    /// How it is named.
    pub link: Link,
    /// The client.
    pub client: SocketAddr,
    /// The relay's end, as it is numbered for datagrams.
    pub local: Link,
    engine: Dtls,
    /// What the client drew for it.
    random: [u8; 32],
    /// The cookie that the client has shown, until the engine has seen it.
    cookie: Option<[u8; COOKIE]>,
    /// Whether the handshake is done.
    pub is_open: bool,
    /// Counts as one of a stranger's until there was an authentic request.
    pub stranger: Option<Stranger>,
    /// When its cookie came back.
    pub begun: Time,
    /// When it is ended if nothing happens.
    pub deadline: Time,
    /// When something has to be sent again; `None`: nothing.
    pub resend: Option<Time>,
    /// The earliest entry among the thread's deadlines.
    pub entered: Option<Time>,
}

/// A session that is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl From<Error> for Broken {
    /// Every error of `dimpl`'s is the end of its session.
    fn from(_: Error) -> Self {
        Self
    }
}

impl Session {
    /// Begins one with a client that has just shown the cookie of its `hello`, which has to be [received](Self::receive) next.
    ///
    /// # Errors
    ///
    /// If it cannot begin.
    pub fn new(
        server: &ServerConfig,
        link: Link,
        client: SocketAddr,
        local: Link,
        hello: &ClientHello<'_>,
        (begun, now): (Time, Instant),
    ) -> Result<Self, Broken> {
        let certificate = server.certificate.clone();
        let mut engine = Dtls::new_12(Arc::clone(&server.config), certificate, now);
        engine.handle_timeout(now)?;
        engine.handle_packet(&FIRST_HELLO)?;
        let mut answer = [0; HANDSHAKE_DATAGRAM];
        // that cookie is not the one that the client has
        while !matches!(engine.poll_output(&mut answer), Output::Timeout(_)) {}
        Ok(Self {
            link,
            client,
            local,
            engine,
            random: hello.random,
            cookie: Some(hello.cookie.try_into().map_err(|_| Broken)?),
            is_open: false,
            stranger: None,
            begun,
            deadline: begun,
            resend: None,
            entered: None,
        })
    }

    /// As the core knows the client.
    #[must_use]
    pub const fn five_tuple(&self) -> FiveTuple {
        FiveTuple {
            client: self.client,
            link: self.link,
            transport: Transport::Dtls,
        }
    }

    /// Whether it has begun with this `ClientHello`, which has come again.
    #[must_use]
    pub fn began_with(&self, hello: &ClientHello<'_>) -> bool {
        hello.number > 0 && hello.random == self.random
    }

    /// Takes a datagram. What comes of it has to be [polled](Self::poll).
    ///
    /// # Errors
    ///
    /// If the session is at its end.
    pub fn receive(&mut self, datagram: &[u8], now: Instant) -> Result<(), Broken> {
        if !self.is_open && datagram.len() > MAX_HANDSHAKE_DATAGRAM {
            return Ok(());
        }
        self.engine.handle_timeout(now)?;
        COOKIE_TO_TAKE.set(self.cookie);
        let result = self.engine.handle_packet(datagram);
        self.cookie = COOKIE_TO_TAKE.take();
        Ok(result?)
    }

    /// Does what is due.
    ///
    /// # Errors
    ///
    /// If the session is at its end.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Broken> {
        Ok(self.engine.handle_timeout(now)?)
    }

    /// Encrypts a message, which has to be [polled](Self::poll) next.
    ///
    /// # Errors
    ///
    /// If the session is at its end.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Broken> {
        self.engine.send_application_data(message)?;
        Ok(())
    }

    /// Says that nothing more will be sent, which has to be [polled](Self::poll) next.
    pub fn finish(&mut self) {
        // whoever does not hear of it hears nothing else, either
        let _ = self.engine.close();
    }

    /// What there is to be done next, the last of it [`Output::Timeout`].
    pub fn poll<'a>(&mut self, buffer: &'a mut [u8]) -> Output<'a> {
        self.engine.poll_output(buffer)
    }
}

/// Shows no address.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("link", &self.link)
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}
