//! One HTTP client stack for every provider.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use crate::{address_policy::AddressPolicy, secret::Secret};

/// A TLS client certificate with its key.
pub struct ClientIdentity {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
}

/// How a client makes its connections.
#[derive(Clone)]
pub struct ClientConfig {
    /// Whom servers must have their certificates from.
    pub roots: Arc<RootCertStore>,
    /// What the client shows servers that ask for a certificate.
    pub identity: Option<Arc<ClientIdentity>>,
    /// `http://[user:password@]host[:port]` of a proxy that does CONNECT.
    pub proxy: Option<Secret<String>>,
    /// Hosts that are reached without the proxy, in the form of `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// Which HTTP versions are spoken.
    pub versions: Versions,
    /// `Some`: destinations are a stranger's choice, and only what the policy permits is connected to.
    pub policy: Option<Arc<AddressPolicy>>,
    /// TCP, proxy and TLS handshake together.
    pub connect_timeout: Duration,
    /// Connections per origin, at the most.
    pub max_connections: usize,
    /// Bytes of an answer's body that are read; the rest is discarded.
    pub max_response_body: usize,
}

/// Which HTTP versions a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// HTTP/2 alone (on `http://` with prior knowledge).
    Http2,
    /// What the server picks by ALPN; HTTP/1.1 on `http://`.
    Http2Or1,
}

/// A client; clones share their connections.
#[derive(Clone)]
pub struct HttpClient {
    // private
}

/// One scheme, host and port, with the connections to it. Clones share them.
#[derive(Clone)]
pub struct Origin {
    // private
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: http::StatusCode,
    /// Headers.
    pub headers: http::HeaderMap,
    /// Body, up to `max_response_body`.
    pub body: Bytes,
}

/// Why there is no answer. The text names hosts of the configuration at most, never a path.
#[derive(Debug, thiserror::Error)]
#[error("{kind:?}")]
pub struct Error {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// Whether the server certainly did not process the request, so that it can be sent again at once.
    pub unprocessed: bool,
    /// What happened, for a log; names no path and, with a `policy`, no host.
    pub detail: String,
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The host's name does not exist or could not be looked up.
    Dns,
    /// The policy permits none of the host's addresses.
    Denied,
    /// TCP, or no connection in time.
    Connect,
    /// The proxy did not let the connection through.
    Proxy,
    /// TLS handshake or certificate.
    Tls,
    /// No whole answer by the deadline.
    Timeout,
    /// The connection ended before the answer was whole.
    Closed,
    /// The server broke HTTP's rules.
    Protocol,
}

impl HttpClient {
    /// Makes a client; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// When the identity's key does not fit its certificate, or the proxy URL cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let _ = config;
        todo!("in work")
    }

    /// The origin of `uri` (its scheme, host and port), to be kept for as long as requests go there.
    ///
    /// # Errors
    ///
    /// When `uri` has no scheme of `http` or `https` or no host, or its host is a literal address
    /// that the policy denies.
    pub fn origin(&self, uri: &http::Uri) -> Result<Origin, Error> {
        let _ = uri;
        todo!("in work")
    }
}

impl Origin {
    /// Sends one request and reads the answer. `request`'s URI is absolute; `Host` is set from it.
    /// A connection that turns out to be dead before anything was processed is replaced, once, without the caller's help.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`].
    pub async fn send(
        &self,
        request: http::Request<Bytes>,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let _ = (request, deadline);
        todo!("in work")
    }
}

#[expect(dead_code, reason = "contract")]
fn contract(_: IpAddr) {}
