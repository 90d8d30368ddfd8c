//! From an origin to a connection that HTTP can be spoken on: DNS, address policy, TCP, proxy, TLS.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http_body_util::Empty;
use hyper_util::{
    client::proxy::matcher::{Intercept, Matcher},
    rt::TokioIo,
};
use rustls::{ClientConfig as TlsConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
};
use tokio_rustls::TlsConnector;

use super::{ClientConfig, Error, ErrorKind, Versions};
use crate::{address_policy::AddressPolicy, tls};

/// How long an address is tried alone before the next one is tried beside it (RFC 8305 §5).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Names of strangers' choice that are looked up at once.
const STRANGERS_LOOK_UPS: usize = 64;

/// A connection on which HTTP can be spoken.
pub(super) struct Connected {
    pub(super) io: Box<dyn Io>,
    pub(super) version: Version,
}

/// The version that both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Scheme, host and port.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    tls: bool,
    /// Without the brackets of an IPv6 literal.
    host: String,
    port: u16,
}

/// What makes connections.
pub(super) struct Connector {
    tls: TlsConnector,
    proxy: Option<Matcher>,
    policy: Option<Arc<AddressPolicy>>,
    /// Destinations are strangers' choices: they are not named in errors.
    anonymous: bool,
    /// Whether the proxy's URL has a password: a user alone is no credentials, as in Sygnal.
    proxy_password: bool,
    versions: Versions,
    connect_timeout: Duration,
}

impl Target {
    /// The target of an absolute URI.
    pub(super) fn of(uri: &http::Uri) -> Result<Self, Error> {
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    "the URL's scheme is neither http nor https",
                ));
            }
        };
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err(Error::new(ErrorKind::Protocol, "the URL has no host"));
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// `host:port`, with brackets where IPv6 needs them.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn uri(&self) -> http::Uri {
        http::Uri::builder()
            .scheme(if self.tls { "https" } else { "http" })
            .authority(self.authority())
            .path_and_query("/")
            .build()
            .unwrap_or_default()
    }
}

impl Connector {
    pub(super) fn new(config: ClientConfig) -> Result<Self, Error> {
        let builder = TlsConfig::builder_with_provider(tls::crypto_provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(ErrorKind::Tls, format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(config.roots);
        let mut tls = match config.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(|error| {
                    Error::new(
                        ErrorKind::Tls,
                        format!("the client certificate cannot be used: {error}"),
                    )
                })?,
        };
        tls.alpn_protocols = match config.versions {
            Versions::Http2 => vec![b"h2".to_vec()],
            Versions::Http2Or1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        let proxy_password = config.proxy.as_ref().is_some_and(|url| {
            url::Url::parse(url.expose()).is_ok_and(|url| url.password().is_some())
        });
        let proxy = config
            .proxy
            .map(|url| {
                if !url
                    .expose()
                    .get(..7)
                    .is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
                {
                    return Err(Error::new(
                        ErrorKind::Proxy,
                        "the proxy's URL does not begin with http://",
                    ));
                }
                Ok(Matcher::builder()
                    .all(url.expose().as_str())
                    .no(config.no_proxy.unwrap_or_default())
                    .build())
            })
            .transpose()?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls)),
            proxy,
            anonymous: config.policy.is_some(),
            proxy_password,
            policy: config.policy.filter(|policy| !policy.permits_all()),
            versions: config.versions,
            connect_timeout: config.connect_timeout,
        })
    }

    pub(super) const fn anonymous(&self) -> bool {
        self.anonymous
    }

    /// Refuses a literal address that may not be reached, before anything is done.
    pub(super) fn check_literal(&self, target: &Target) -> Result<(), Error> {
        match (&self.policy, target.host.parse::<IpAddr>()) {
            (Some(policy), Ok(address)) if !policy.permits(address) => Err(denied()),
            _ => Ok(()),
        }
    }

    /// Connects; ends within the connect timeout.
    pub(super) async fn connect(&self, target: &Target) -> Result<Connected, Error> {
        let connecting = self.connect_in_peace(target);
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(result) => result.map_err(Error::unprocessed),
            Err(_) => Err(Error::new(
                ErrorKind::Connect,
                format!(
                    "no connection to {} within {:?}",
                    target.authority(),
                    self.connect_timeout
                ),
            )
            .unprocessed()),
        }
    }

    async fn connect_in_peace(&self, target: &Target) -> Result<Connected, Error> {
        let intercept = self
            .proxy
            .as_ref()
            .and_then(|proxy| proxy.intercept(&target.uri()));
        match intercept {
            None => {
                let addresses = self.look_up(target).await?;
                let tcp = self.dial(target, &addresses).await?;
                self.secure(target, tcp).await
            }
            Some(proxy) => {
                let tunnel = self.tunnel(target, &proxy).await?;
                self.secure(target, tunnel).await
            }
        }
    }

    /// Every address of the target that may be connected to, IPv6 and IPv4 in turn (RFC 8305 §4).
    async fn look_up(&self, target: &Target) -> Result<Vec<SocketAddr>, Error> {
        let failed = |error| {
            Error::new(
                ErrorKind::Dns,
                format!("{} cannot be looked up: {error}", target.authority()),
            )
        };
        let found = if self.policy.is_some() && target.host.parse::<IpAddr>().is_err() {
            let name = (target.host.clone(), target.port);
            look_up_for_stranger(move || name.to_socket_addrs())
                .await
                .map_err(failed)?
                .collect()
        } else {
            tokio::net::lookup_host((target.host.as_str(), target.port))
                .await
                .map_err(failed)?
                .collect::<Vec<_>>()
        };
        if found.is_empty() {
            return Err(Error::new(
                ErrorKind::Dns,
                format!("{} has no address", target.authority()),
            ));
        }
        let permitted = found.into_iter().filter(|address| {
            self.policy
                .as_ref()
                .is_none_or(|policy| policy.permits(address.ip()))
        });
        let (six, four): (Vec<_>, Vec<_>) = permitted.partition(SocketAddr::is_ipv6);
        let mut addresses = Vec::with_capacity(six.len() + four.len());
        let (mut six, mut four) = (six.into_iter(), four.into_iter());
        loop {
            let pair = (six.next(), four.next());
            if pair == (None, None) {
                break;
            }
            addresses.extend(pair.0);
            addresses.extend(pair.1);
        }
        if addresses.is_empty() {
            Err(denied())
        } else {
            Ok(addresses)
        }
    }

    /// Connects to the first address that answers, each with a head start over the next.
    async fn dial(&self, target: &Target, addresses: &[SocketAddr]) -> Result<TcpStream, Error> {
        let mut attempts: FuturesUnordered<_> = addresses
            .iter()
            .zip(0_u32..)
            .map(|(address, place)| async move {
                tokio::time::sleep(CONNECTION_ATTEMPT_DELAY.saturating_mul(place)).await;
                TcpStream::connect(address).await
            })
            .collect();
        let mut last = None;
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(stream) => {
                    // Pushes are small and alone in their packet: there is nothing to wait for.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        let why = last.map_or_else(|| "no address".to_owned(), |error| error.to_string());
        Err(Error::new(
            ErrorKind::Connect,
            format!("no connection to {}: {why}", target.authority()),
        ))
    }

    /// A tunnel to the target through a proxy.
    ///
    /// Where a policy holds, the name is looked up and checked here and the proxy is asked for the
    /// address: else the proxy's own look-up could lead somewhere else.
    async fn tunnel(
        &self,
        target: &Target,
        proxy: &Intercept,
    ) -> Result<TokioIo<hyper::upgrade::Upgraded>, Error> {
        let destination = if self.policy.is_some() {
            let addresses = self.look_up(target).await?;
            addresses
                .first()
                .map_or_else(|| target.authority(), ToString::to_string)
        } else {
            target.authority()
        };
        let proxy_target = Target::of(proxy.uri()).map_err(|error| Error {
            kind: ErrorKind::Proxy,
            ..error
        })?;
        let failed = |what: &str| {
            Error::new(
                ErrorKind::Proxy,
                format!("the proxy {}: {what}", proxy_target.authority()),
            )
        };
        let addresses: Vec<_> =
            tokio::net::lookup_host((proxy_target.host.as_str(), proxy_target.port))
                .await
                .map_err(|error| failed(&format!("its name cannot be looked up: {error}")))?
                .collect();
        let tcp = self
            .dial(&proxy_target, &addresses)
            .await
            .map_err(|error| failed(&error.detail))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
            .await
            .map_err(|error| failed(&error.to_string()))?;
        let driver = tokio::spawn(connection.with_upgrades());
        let mut request = http::Request::connect(destination.as_str())
            .header(http::header::HOST, destination.as_str());
        if let Some(credentials) = proxy.basic_auth().filter(|_| self.proxy_password) {
            request = request.header(http::header::PROXY_AUTHORIZATION, credentials);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| failed(&error.to_string()))?;
        let status = response.status();
        if status != http::StatusCode::OK {
            driver.abort();
            let remedy = if status == http::StatusCode::PROXY_AUTHENTICATION_REQUIRED {
                "; check user and password in `proxy:` or HTTPS_PROXY"
            } else {
                ""
            };
            return Err(failed(&format!(
                "it answered CONNECT with {status}{remedy}"
            )));
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| failed(&error.to_string()))?;
        Ok(TokioIo::new(upgraded))
    }

    /// TLS where the scheme asks for it.
    async fn secure<S>(&self, target: &Target, stream: S) -> Result<Connected, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if !target.tls {
            let version = match self.versions {
                Versions::Http2 => Version::Http2,
                Versions::Http2Or1 => Version::Http1,
            };
            return Ok(Connected {
                io: Box::new(stream),
                version,
            });
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|_| {
            Error::new(
                ErrorKind::Tls,
                format!("{} is not a name for a certificate", target.authority()),
            )
        })?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| {
            Error::new(
                ErrorKind::Tls,
                format!("TLS with {} failed: {error}", target.authority()),
            )
        })?;
        let version = match (stream.get_ref().1.alpn_protocol(), self.versions) {
            (Some(b"h2"), _) => Version::Http2,
            (_, Versions::Http2Or1) => Version::Http1,
            (_, Versions::Http2) => {
                return Err(Error::new(
                    ErrorKind::Tls,
                    format!("{} does not speak HTTP/2", target.authority()),
                ));
            }
        };
        Ok(Connected {
            io: Box::new(stream),
            version,
        })
    }
}

/// Looks a name up that a stranger chose.
///
/// The system's look-up occupies a thread for as long as the name's own server likes, also after the push
/// was given up, and there are 512 threads for everything that blocks. Strangers get few enough of them
/// that names of providers are always looked up.
async fn look_up_for_stranger<T: Send + 'static>(
    look_up: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static PLACES: Semaphore = Semaphore::const_new(STRANGERS_LOOK_UPS);
    let place = PLACES.acquire().await.map_err(io::Error::other)?;
    tokio::task::spawn_blocking(move || {
        let found = look_up();
        drop(place);
        found
    })
    .await
    .map_err(io::Error::other)?
}

fn denied() -> Error {
    Error::new(
        ErrorKind::Denied,
        "the endpoint's address is not public and `outbound.allow_private` does not name it",
    )
    .unprocessed()
}

impl fmt::Debug for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Target([hidden])")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Name servers that do not answer, and requests that do not wait for them.
    #[tokio::test]
    async fn look_ups_that_were_given_up_keep_their_place_until_their_thread_is_free() {
        #[derive(Default)]
        struct Server {
            asked: AtomicUsize,
            answers: Mutex<bool>,
            changed: Condvar,
        }

        let server = Arc::new(Server::default());
        let look_up = || {
            let server = Arc::clone(&server);
            look_up_for_stranger(move || {
                server.asked.fetch_add(1, Ordering::SeqCst);
                let answers = server.answers.lock().unwrap();
                let waiting = server.changed.wait_while(answers, |answers| !*answers);
                drop(waiting.unwrap());
                Ok(())
            })
        };
        for _ in 0..2 {
            let look_ups = futures_util::future::join_all((0..100).map(|_| look_up()));
            let given_up = tokio::time::timeout(Duration::from_millis(100), look_ups).await;
            assert!(given_up.is_err());
        }
        let asked = server.asked.load(Ordering::SeqCst);
        // threads that wait would keep the test from ending
        *server.answers.lock().unwrap() = true;
        server.changed.notify_all();
        look_up().await.unwrap();
        assert!(asked <= STRANGERS_LOOK_UPS, "{asked}");
    }
}
