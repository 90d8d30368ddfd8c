//! One HTTP client stack for every provider.
//!
//! hyper speaks HTTP, rustls TLS; what is here decides which connection a request takes: a pool per
//! origin that reads the server's stream limit and opens as many connections as that asks for, a
//! proxy where one is configured, and, for endpoints that a stranger chose, a check of the very
//! address that is connected to. Redirects are never followed.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use crate::{address_policy::AddressPolicy, secret::Secret};

mod connect;
mod pool;

use connect::{Connector, Target};
use pool::Pool;

/// Origins whose connections a client keeps. The one used longest ago makes room.
const ORIGINS: usize = 512;

/// A TLS client certificate with its key.
pub struct ClientIdentity {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
}

/// How a client makes its connections.
#[derive(Clone, Debug)]
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
pub struct HttpClient(Arc<Inner>);

struct Inner {
    connector: Arc<Connector>,
    max_connections: usize,
    max_response_body: usize,
    origins: Mutex<Origins>,
}

/// Pools by scheme, host and port, each with the count of its last use.
#[derive(Default)]
struct Origins {
    by_target: HashMap<Target, (Arc<Pool>, u64)>,
    uses: u64,
}

/// One scheme, host and port, with the connections to it. Clones share them.
#[derive(Clone)]
pub struct Origin(Arc<Pool>);

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

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// Whether the server certainly did not process the request, so that it can be sent again at once.
    pub unprocessed: bool,
    /// What happened, for a log. Names no path; with a `policy`, whose endpoints are strangers' choices,
    /// it is the kind alone: no host, and nothing that the server said.
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
    /// The server broke HTTP's rules, or the request does.
    Protocol,
}

impl HttpClient {
    /// Makes a client; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// When the identity's key does not fit its certificate, or the proxy URL cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let max_connections = config.max_connections.max(1);
        let max_response_body = config.max_response_body;
        Ok(Self(Arc::new(Inner {
            connector: Arc::new(Connector::new(config)?),
            max_connections,
            max_response_body,
            origins: Mutex::default(),
        })))
    }

    /// Closes connections that nobody used of late; to be called about once a minute. Those to configured
    /// providers stay open over HTTP/2, for the next push; those to strangers' endpoints do not.
    pub fn close_idle(&self) {
        let pools: Vec<_> = {
            let origins = self
                .0
                .origins
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            origins
                .by_target
                .values()
                .map(|(pool, _)| Arc::clone(pool))
                .collect()
        };
        for pool in pools {
            pool.close_idle();
        }
    }

    /// The origin of `uri` (its scheme, host and port), to be kept for as long as requests go there,
    /// or asked for again each time.
    ///
    /// # Errors
    ///
    /// When `uri` has no scheme of `http` or `https` or no host, or its host is a literal address
    /// that the policy denies.
    pub fn origin(&self, uri: &http::Uri) -> Result<Origin, Error> {
        let anonymous = self.0.connector.anonymous();
        let target = Target::of(uri).map_err(|error| error.said(anonymous))?;
        self.0
            .connector
            .check_literal(&target)
            .map_err(|error| error.said(anonymous))?;
        let mut origins = self
            .0
            .origins
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        origins.uses += 1;
        let uses = origins.uses;
        if let Some((pool, used)) = origins.by_target.get_mut(&target) {
            *used = uses;
            return Ok(Origin(Arc::clone(pool)));
        }
        if origins.by_target.len() >= ORIGINS {
            let oldest = origins
                .by_target
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(target, _)| target.clone());
            if let Some(oldest) = oldest {
                origins.by_target.remove(&oldest);
            }
        }
        let pool = Pool::new(
            Arc::clone(&self.0.connector),
            target.clone(),
            self.0.max_connections,
            self.0.max_response_body,
        );
        origins.by_target.insert(target, (Arc::clone(&pool), uses));
        Ok(Origin(pool))
    }
}

impl Origin {
    /// Sends one request and reads the answer. `request`'s URI is absolute; `Host` is set from it.
    /// A connection that turns out to be dead before the request was written is replaced without the
    /// caller's help.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`].
    pub async fn send(
        &self,
        request: http::Request<Bytes>,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let sent = tokio::time::timeout_at(deadline.into(), self.0.send(request)).await;
        sent.unwrap_or_else(|_| Err(self.0.timed_out()))
            .map_err(|error| error.said(self.0.anonymous()))
    }
}

impl Error {
    fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            unprocessed: false,
            detail: detail.into(),
        }
    }

    /// The same failure, told without what only a stranger could know.
    fn said(mut self, anonymous: bool) -> Self {
        if anonymous {
            let said = match self.kind {
                ErrorKind::Dns => "the endpoint's name cannot be looked up",
                ErrorKind::Denied => {
                    "the endpoint's address is not public, and `outbound.allow_private` does not name it"
                }
                ErrorKind::Connect => "no connection to the endpoint",
                ErrorKind::Proxy => "the proxy makes no connection to the endpoint",
                ErrorKind::Tls => "no TLS with the endpoint",
                ErrorKind::Timeout => "the endpoint did not answer in time",
                ErrorKind::Closed => "the endpoint closed the connection",
                ErrorKind::Protocol => "the endpoint does not speak HTTP as it should",
            };
            said.clone_into(&mut self.detail);
        }
        self
    }

    /// The same failure of something that happened before the request was sent.
    fn unprocessed(mut self) -> Self {
        self.unprocessed = true;
        self
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClientIdentity([hidden])")
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HttpClient")
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Origin")
    }
}
