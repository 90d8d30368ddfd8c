//! The certificate that clients see: read, checked, offered, and read again when it was renewed.
//!
//! A new connection takes what [`Certificates::current`] holds, as [`for_client`] fits it to the client;
//! connections keep what they began with.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

#[cfg(feature = "dtls")]
use crate::io::dtls;
use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ServerSessionMemoryCache},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use shared::{
    files::{self, Facts},
    key_file::{self, pem_blocks},
    tls::crypto_provider,
};
use tracing::{info, warn};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// RFC 7443 §3: TURN over this connection.
pub const ALPN_TURN: &[u8] = b"stun.turn";

/// RFC 7443 §3: Binding requests over this connection.
pub const ALPN_NAT_DISCOVERY: &[u8] = b"stun.nat-discovery";

/// RFC 7301 §6: HTTP over this connection. HTTP/2 is not offered, since backends seldom speak it in clear.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

const PROTOCOLS: [&[u8]; 2] = [ALPN_TURN, ALPN_NAT_DISCOVERY];

/// How often the files are looked at.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Sessions that can be resumed; TURN clients seldom come back.
const RESUMABLE_SESSIONS: usize = 1024;

/// A certificate with its chain and its key, which fit together.
pub struct Identity {
    certified: CertifiedKey,
    #[cfg(feature = "dtls")]
    dtls: Option<Arc<dtls::ServerConfig>>,
    not_before: i64,
    not_after: i64,
    ends: String,
    names: BTreeSet<Name>,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    /// In lower case, perhaps with `*` as its first label.
    Dns(String),
    Ip(IpAddr),
}

/// Why two files are no identity: which of them is to blame, and what is wrong with it. Nothing that is in
/// them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The one with the certificates
    #[error("{0}")]
    Certificate(String),
    /// The one with the private key
    #[error("{0}")]
    Key(String),
}

impl Identity {
    /// Reads PEM: the certificate first, then the chain above it; and an unencrypted private key.
    ///
    /// # Errors
    ///
    /// When one of them cannot be used, or the key is another certificate's.
    pub fn of_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Unusable> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.unwrap_or_default();
        let Some(leaf) = chain.first() else {
            return Err(Unusable::Certificate(format!(
                "no certificate can be read from it: {}, expected a PEM file with the certificate and the chain \
                 above it",
                pem_blocks(&String::from_utf8_lossy(certificate))
            )));
        };
        let damaged =
            || Unusable::Certificate("its first certificate is damaged (get it again)".to_owned());
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| damaged())?;
        let validity = parsed.validity();
        let (not_before, not_after) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        let ends = validity.not_after.to_string();
        let names = names(&parsed);

        let key = private_key(key)?;
        #[cfg(feature = "dtls")]
        let dtls = dtls::ServerConfig::new(leaf, key.secret_der()).map(Arc::new);
        let certified = CertifiedKey::from_der(chain, key, &crypto_provider());
        let certified = certified.map_err(|error| {
            if matches!(error, rustls::Error::InconsistentKeys(_)) {
                Unusable::Key(
                    "the private key does not belong to the certificate (are both of the same renewal?)"
                        .to_owned(),
                )
            } else if matches!(error, rustls::Error::InvalidCertificate(_)) {
                damaged()
            } else {
                Unusable::Key(
                    "its private key cannot be used: expected RSA, ECDSA on P-256, P-384 or P-521, or Ed25519"
                        .to_owned(),
                )
            }
        })?;
        Ok(Self {
            certified,
            #[cfg(feature = "dtls")]
            dtls,
            not_before,
            not_after,
            ends,
            names,
        })
    }

    /// As [`Identity::of_pem`], from files.
    ///
    /// # Errors
    ///
    /// A text that names the file.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, String> {
        let content = |path: &Path| {
            key_file::content(path)
                .map_err(|problem| format!("the file {} cannot be read: {problem}", path.display()))
        };
        Self::of_pem(&content(certificate)?, &content(key)?).map_err(|problem| match problem {
            Unusable::Certificate(problem) => {
                format!("the file {}: {problem}", certificate.display())
            }
            Unusable::Key(problem) => format!("the file {}: {problem}", key.display()),
        })
    }

    /// Whether it is the same certificate with the same chain, and so the same key.
    fn is_same(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }

    /// From when on it is valid, in seconds since 1970.
    #[must_use]
    pub const fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Until when it is valid, in seconds since 1970.
    #[must_use]
    pub const fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Until when it is valid, for people.
    #[must_use]
    pub fn ends(&self) -> &str {
        &self.ends
    }

    /// Whom it is for, for people: up to five names.
    #[must_use]
    pub fn names(&self) -> String {
        const SHOWN: usize = 5;
        let mut names: Vec<_> = self
            .names
            .iter()
            .take(SHOWN)
            .map(|name| match name {
                Name::Dns(name) => name.clone(),
                Name::Ip(address) => address.to_string(),
            })
            .collect();
        if names.is_empty() {
            return "nobody (it has no subject alternative names)".to_owned();
        }
        if self.names.len() > SHOWN {
            names.push("…".to_owned());
        }
        names.join(", ")
    }

    /// The certificate itself, without the chain above it, as DER.
    #[must_use]
    pub fn leaf(&self) -> &[u8] {
        self.certified
            .cert
            .first()
            .map_or(&[], |leaf| leaf.as_ref())
    }

    /// Whether a client that connects to `host` takes it for that host's (RFC 9525 §6).
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = address.parse() {
            return self.names.contains(&Name::Ip(address));
        }
        let host = host.to_ascii_lowercase();
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        self.names.contains(&Name::Dns(host))
            || wildcard.is_some_and(|wildcard| self.names.contains(&Name::Dns(wildcard)))
    }

    /// What TLS connections need: TLS 1.2 and 1.3, whose cipher suites are all AEAD in rustls.
    ///
    /// # Errors
    ///
    /// A text, when the cryptography cannot do what these versions ask for.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, String> {
        let mut config = ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.session_storage = ServerSessionMemoryCache::new(RESUMABLE_SESSIONS);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }

    /// What DTLS sessions need.
    ///
    /// # Errors
    ///
    /// A text, when the key is none for DTLS.
    #[cfg(feature = "dtls")]
    pub fn dtls_config(&self) -> Result<Arc<dtls::ServerConfig>, &'static str> {
        self.dtls.clone().ok_or(
            "`listen.dtls` takes an ECDSA key on P-256 or P-384, and this is another one (get a certificate for such a \
             key, with certbot by --key-type ecdsa --elliptic-curve secp256r1; or remove `listen.dtls`)",
        )
    }

    /// Whether there are certificates above it.
    #[must_use]
    pub fn has_chain(&self) -> bool {
        self.certified.cert.len() > 1
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("not_after", &self.ends)
            .finish_non_exhaustive()
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Unusable> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let text = String::from_utf8_lossy(pem);
        Unusable::Key(if text.contains("ENCRYPTED") {
            "its private key is encrypted, expected an unencrypted one (decrypt it: openssl pkey -in FILE \
             -out KEY)"
                .to_owned()
        } else {
            format!(
                "no private key can be read from it: {}, expected a PEM file with the certificate's key",
                pem_blocks(&text)
            )
        })
    })
}

/// The subject's common name does not count: clients have not looked at it for years.
fn names(certificate: &X509Certificate<'_>) -> BTreeSet<Name> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return BTreeSet::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(Name::Dns(name.to_ascii_lowercase())),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                v4.or(v6).ok().map(Name::Ip)
            }
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::URI(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => None,
        })
        .collect()
}

/// The configuration for the client that said `hello`, as [`rustls::server::Acceptor`] hands it out.
///
/// rustls takes the first protocol of the *server's* list, and refuses a client that offers none of them.
/// RFC 7443 §3 wants the first of the client's, and whoever offers something else is a client all the same,
/// and is answered without a protocol.
///
/// HTTP is what is left: whoever offers TURN wants it. coturn's client offers HTTP before, and never speaks it.
#[must_use]
pub fn for_client(
    config: &Arc<ServerConfig>,
    hello: &ClientHello<'_>,
    takes_http: bool,
) -> Arc<ServerConfig> {
    match hello.alpn() {
        Some(offered) => for_protocols(config, offered, takes_http),
        None => Arc::clone(config),
    }
}

fn for_protocols<'a>(
    config: &Arc<ServerConfig>,
    offered: impl Iterator<Item = &'a [u8]>,
    takes_http: bool,
) -> Arc<ServerConfig> {
    let mut selected = None;
    for protocol in offered {
        if PROTOCOLS.contains(&protocol) {
            selected = Some(protocol);
            break;
        }
        if takes_http && protocol == ALPN_HTTP {
            selected = Some(protocol);
        }
    }
    let mut config = ServerConfig::clone(config);
    config.alpn_protocols = selected.map(<[u8]>::to_vec).into_iter().collect();
    Arc::new(config)
}

/// What new connections are served with. Shared by all threads; reading takes no lock.
#[derive(Debug)]
pub struct Certificates {
    current: Arc<ArcSwap<ServerConfig>>,
    /// There if anything listens for DTLS
    #[cfg(feature = "dtls")]
    dtls: Option<Arc<ArcSwap<dtls::ServerConfig>>>,
    /// Seconds since 1970
    not_after: AtomicI64,
    watched: Mutex<Watched>,
}

/// The files that are looked at.
#[derive(Debug)]
struct Watched {
    certificate: PathBuf,
    key: PathBuf,
    /// What the files were when they were last read; none: not yet read by [`Certificates::look`]. Inside: none,
    /// there is no file. Other content without any of it changed is next to impossible.
    seen: Option<[Option<Facts>; 2]>,
    in_use: Arc<Identity>,
    /// Whether the files cannot be used as they are, and that has been said.
    complained: bool,
}

/// What a look at the files found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Unchanged,
    /// New connections get what is in the files now.
    Replaced,
    /// The files changed and cannot be used; what was there before stays in use.
    Refused,
}

impl Certificates {
    /// Serves new connections with `identity`, and watches the files that it is from.
    ///
    /// # Errors
    ///
    /// As [`Identity::server_config`].
    pub fn new(identity: Arc<Identity>, certificate: &Path, key: &Path) -> Result<Self, String> {
        Ok(Self {
            current: Arc::new(ArcSwap::new(identity.server_config()?)),
            #[cfg(feature = "dtls")]
            dtls: None,
            not_after: AtomicI64::new(identity.not_after()),
            watched: Mutex::new(Watched::new(identity, certificate, key)),
        })
    }

    /// Has certificates be fit for DTLS from now on, the present one among them.
    ///
    /// # Errors
    ///
    /// As [`Identity::dtls_config`].
    #[cfg(feature = "dtls")]
    pub fn with_dtls(mut self) -> Result<Self, String> {
        let watched = self
            .watched
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let config = watched.in_use.dtls_config()?;
        self.dtls = Some(Arc::new(ArcSwap::new(config)));
        Ok(self)
    }

    /// What a new DTLS session is served with, now and after each change; `None` without [`Self::with_dtls`].
    #[cfg(feature = "dtls")]
    #[must_use]
    pub fn current_dtls(&self) -> Option<Arc<ArcSwap<dtls::ServerConfig>>> {
        self.dtls.clone()
    }

    /// What a new connection is served with, now and after each change.
    #[must_use]
    pub fn current(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.current)
    }

    /// When the certificate in use expires, in seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after.load(Ordering::Relaxed)
    }

    /// Serves new connections with another `identity`, and watches the files that it is from.
    ///
    /// # Errors
    ///
    /// As [`Identity::server_config`]; what was there before stays in use.
    pub fn replace(
        &self,
        identity: Arc<Identity>,
        certificate: &Path,
        key: &Path,
    ) -> Result<(), String> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if !watched.in_use.is_same(&identity) {
            self.serve(&identity)?;
        }
        *watched = Watched::new(identity, certificate, key);
        Ok(())
    }

    fn serve(&self, identity: &Identity) -> Result<(), String> {
        let config = identity.server_config()?;
        #[cfg(feature = "dtls")]
        if let Some(dtls) = &self.dtls {
            dtls.store(identity.dtls_config()?);
        }
        self.current.store(config);
        self.not_after
            .store(identity.not_after(), Ordering::Relaxed);
        Ok(())
    }

    /// Reads the files if one of them changed, and uses them if they fit together. A pair of which one
    /// file is still the old one, or half written, is tried again at each look, and complained of once.
    pub fn look(&self) -> Look {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before reading: what is written meanwhile shows at the next look.
        let seen = [&watched.certificate, &watched.key].map(|path| fingerprint(path));
        if watched.seen == Some(seen) && !watched.complained {
            return Look::Unchanged;
        }
        watched.seen = Some(seen);
        let read = Identity::read(&watched.certificate, &watched.key);
        let read = read.and_then(|identity| {
            if watched.in_use.is_same(&identity) {
                return Ok(Look::Unchanged);
            }
            self.serve(&identity)?;
            info!(expires = %identity.ends, "there is another certificate: new connections get it");
            watched.in_use = Arc::new(identity);
            Ok(Look::Replaced)
        });
        match read {
            Ok(look) => {
                watched.complained = false;
                look
            }
            Err(problem) => {
                if !watched.complained {
                    warn!(
                        "certificate or key changed and cannot be used; the old ones stay in use, and the files \
                         are read again until they can: {problem}"
                    );
                }
                watched.complained = true;
                Look::Refused
            }
        }
    }

    /// Looks at the files every [`WATCH_INTERVAL`], for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut interval = tokio::time::interval(WATCH_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let certificates = Arc::clone(&self);
            // A file system that hangs stops nothing but this.
            let _ = tokio::task::spawn_blocking(move || certificates.look()).await;
        }
    }
}

impl Watched {
    fn new(identity: Arc<Identity>, certificate: &Path, key: &Path) -> Self {
        Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            // The files may have changed since the identity was read.
            seen: None,
            in_use: identity,
            complained: false,
        }
    }
}

fn fingerprint(path: &Path) -> Option<Facts> {
    files::facts(path).ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use rcgen::{CertificateParams, KeyPair};
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConnection,
        pki_types::ServerName,
        server::{Accepted, Acceptor},
    };
    use tempfile::TempDir;

    use super::*;

    const HOST: &str = "turn.example.org";

    type Offered<'a> = &'a [&'a [u8]];

    struct Pem {
        certificate: String,
        key: String,
    }

    fn pem() -> Pem {
        pem_for(&[HOST])
    }

    fn pem_for(names: &[&str]) -> Pem {
        let key = KeyPair::generate().expect("key");
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("names");
        Pem {
            certificate: params.self_signed(&key).expect("certificate").pem(),
            key: key.serialize_pem(),
        }
    }

    fn identity(pem: &Pem) -> Identity {
        Identity::of_pem(pem.certificate.as_bytes(), pem.key.as_bytes()).expect("they fit")
    }

    /// A folder with the pair in it.
    fn folder(pem: &Pem) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder for the test");
        write(&folder, "cert.pem", &pem.certificate);
        write(&folder, "key.pem", &pem.key);
        folder
    }

    /// As a renewal does it: a new file in the place of the old one.
    fn write(folder: &TempDir, name: &str, content: &str) {
        let new = folder.path().join("new");
        std::fs::write(&new, content).expect("write");
        std::fs::rename(new, folder.path().join(name)).expect("rename");
    }

    fn certificates(folder: &TempDir) -> Certificates {
        let (certificate, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        let identity = Identity::read(&certificate, &key).expect("they fit");
        Certificates::new(Arc::new(identity), &certificate, &key).expect("TLS works")
    }

    /// What a handshake in memory came to: the protocol, and the leaf that the client saw.
    fn handshake(
        config: &Arc<ServerConfig>,
        trusted: &Pem,
        offered: Offered<'_>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<(Option<Vec<u8>>, Vec<u8>), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(
            CertificateDer::pem_slice_iter(trusted.certificate.as_bytes())
                .map(|certificate| certificate.expect("PEM")),
        );
        let mut client = ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(HOST).expect("a host name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = accept(&mut client, config);
        while client.is_handshaking() || server.is_handshaking() {
            pass(&mut |to| server.write_tls(to), &mut |from| {
                client.read_tls(from)
            });
            client.process_new_packets()?;
            pass(&mut |to| client.write_tls(to), &mut |from| {
                server.read_tls(from)
            });
            server.process_new_packets()?;
        }
        client.writer().write_all(b"hello").expect("buffered");
        pass(&mut |to| client.write_tls(to), &mut |from| {
            server.read_tls(from)
        });
        server.process_new_packets()?;
        let mut heard = [0; 5];
        server.reader().read_exact(&mut heard).expect("five bytes");
        assert_eq!(&heard, b"hello");
        let leaf = client.peer_certificates().expect("a certificate")[0].to_vec();
        Ok((client.alpn_protocol().map(<[u8]>::to_vec), leaf))
    }

    fn accept(client: &mut ClientConnection, config: &Arc<ServerConfig>) -> ServerConnection {
        let mut acceptor = Acceptor::default();
        let accepted: Accepted = loop {
            pass(&mut |to| client.write_tls(to), &mut |from| {
                acceptor.read_tls(from)
            });
            if let Ok(Some(accepted)) = acceptor.accept() {
                break accepted;
            }
        };
        let config = for_client(config, &accepted.client_hello(), false);
        accepted
            .into_connection(config)
            .map_err(|(error, _)| error)
            .expect("a hello")
    }

    fn pass(
        from: &mut dyn FnMut(&mut dyn std::io::Write) -> std::io::Result<usize>,
        to: &mut dyn FnMut(&mut dyn std::io::Read) -> std::io::Result<usize>,
    ) {
        let mut bytes = Vec::new();
        while from(&mut bytes).expect("a buffer takes it") > 0 {}
        let mut unread = bytes.as_slice();
        while !unread.is_empty() && to(&mut unread).expect("a buffer gives it") > 0 {}
    }

    #[test]
    fn a_client_gets_the_first_of_its_protocols_that_is_known_or_none() {
        let pem = pem();
        let config = identity(&pem).server_config().expect("TLS works");
        let cases: [(Offered<'_>, Option<&[u8]>); 6] = [
            (&[], None),
            (&[ALPN_TURN], Some(ALPN_TURN)),
            (&[ALPN_NAT_DISCOVERY], Some(ALPN_NAT_DISCOVERY)),
            (&[ALPN_NAT_DISCOVERY, ALPN_TURN], Some(ALPN_NAT_DISCOVERY)),
            (&[b"h2", ALPN_TURN, ALPN_NAT_DISCOVERY], Some(ALPN_TURN)),
            (&[b"h2", b"http/1.1"], None),
        ];
        for versions in [[&TLS13], [&TLS12]] {
            for (offered, selected) in cases {
                let (protocol, _) =
                    handshake(&config, &pem, offered, &versions).expect("a connection");
                assert_eq!(protocol.as_deref(), selected, "{offered:?}");
            }
        }
    }

    #[test]
    fn http_is_a_protocol_where_there_is_a_backend_for_it_and_http_2_never() {
        let config = identity(&pem()).server_config().expect("TLS works");
        let cases: [(Offered<'_>, Option<&[u8]>); 5] = [
            (&[b"h2", ALPN_HTTP], Some(ALPN_HTTP)),
            (&[ALPN_HTTP, ALPN_TURN], Some(ALPN_TURN)),
            (&[ALPN_TURN, ALPN_HTTP], Some(ALPN_TURN)),
            (&[b"h2"], None),
            (&[], None),
        ];
        for (offered, selected) in cases {
            let of_client = for_protocols(&config, offered.iter().copied(), true);
            let protocols: Vec<_> = of_client.alpn_protocols.iter().map(Vec::as_slice).collect();
            assert_eq!(protocols, Vec::from_iter(selected), "{offered:?}");
            let without = for_protocols(&config, offered.iter().copied(), false);
            assert!(
                !without
                    .alpn_protocols
                    .iter()
                    .any(|protocol| protocol == ALPN_HTTP)
            );
        }
    }

    #[test]
    fn all_cipher_suites_are_aead() {
        let config = identity(&pem()).server_config().expect("TLS works");
        assert!(config.crypto_provider().cipher_suites.len() >= 6);
        for suite in &config.crypto_provider().cipher_suites {
            let name = format!("{:?}", suite.suite());
            assert!(
                name.contains("_GCM_") || name.contains("CHACHA20_POLY1305"),
                "{name}"
            );
        }
    }

    #[test]
    fn a_renewed_pair_is_served_to_new_connections() {
        let old = pem();
        let folder = folder(&old);
        let certificates = certificates(&folder);
        assert_eq!(certificates.look(), Look::Unchanged, "it is in use already");
        assert_eq!(certificates.look(), Look::Unchanged);

        let new = pem();
        write(&folder, "cert.pem", &new.certificate);
        assert_eq!(certificates.look(), Look::Refused, "the key is the old one");
        assert_eq!(certificates.look(), Look::Refused, "it is tried each time");
        let config = certificates.current().load_full();
        handshake(&config, &old, &[], &[&TLS13]).expect("the old one is still in use");

        write(&folder, "key.pem", &new.key);
        assert_eq!(certificates.look(), Look::Replaced);
        assert_eq!(certificates.look(), Look::Unchanged);
        let config = certificates.current().load_full();
        handshake(&config, &new, &[], &[&TLS13]).expect("the new one is in use");
        assert!(handshake(&config, &old, &[], &[&TLS13]).is_err());
    }

    #[test]
    fn files_that_are_gone_or_half_written_leave_the_old_pair_in_use() {
        let old = pem();
        let folder = folder(&old);
        let certificates = certificates(&folder);
        std::fs::remove_file(folder.path().join("key.pem")).expect("it is there");
        assert_eq!(certificates.look(), Look::Refused);
        write(&folder, "key.pem", &old.key[..40]);
        assert_eq!(certificates.look(), Look::Refused);
        // written to the end in place: the same inode, perhaps the same time
        std::fs::write(folder.path().join("key.pem"), &old.key).expect("write");
        assert_eq!(certificates.look(), Look::Unchanged, "the old pair is back");
        let config = certificates.current().load_full();
        handshake(&config, &old, &[], &[&TLS13]).expect("it was in use all the time");
    }

    #[test]
    fn a_reload_may_name_other_files() {
        let (first, second) = (pem(), pem());
        let (one, two) = (folder(&first), folder(&second));
        let certificates = certificates(&one);
        certificates
            .replace(
                Arc::new(identity(&second)),
                &two.path().join("cert.pem"),
                &two.path().join("key.pem"),
            )
            .expect("TLS works");
        let config = certificates.current().load_full();
        handshake(&config, &second, &[], &[&TLS13]).expect("the second is in use");
        write(&one, "cert.pem", "nothing");
        assert_eq!(
            certificates.look(),
            Look::Unchanged,
            "the first is not watched"
        );
    }

    #[test]
    fn whom_a_certificate_is_for() {
        let identity = identity(&pem_for(&[
            HOST,
            "*.Relays.example",
            "192.0.2.7",
            "2001:db8::7",
        ]));
        for (host, fits) in [
            (HOST, true),
            ("TURN.example.org", true),
            ("a.relays.example", true),
            ("a.b.relays.example", false),
            ("relays.example", false),
            ("192.0.2.7", true),
            ("[2001:db8::7]", true),
            ("192.0.2.8", false),
            ("example.org", false),
        ] {
            assert_eq!(identity.is_for(host), fits, "{host}");
        }
        assert_eq!(
            identity.names(),
            "*.relays.example, turn.example.org, 192.0.2.7, 2001:db8::7"
        );
    }

    #[test]
    fn what_is_wrong_with_two_files_is_said_of_the_right_one() {
        let (one, other) = (pem(), pem());
        let of = |certificate: &str, key: &str| {
            Identity::of_pem(certificate.as_bytes(), key.as_bytes()).expect_err("unusable")
        };
        assert!(matches!(of(&one.certificate, &other.key), Unusable::Key(_)));
        assert!(matches!(of(&one.key, &one.key), Unusable::Certificate(_)));
        assert!(matches!(
            of(&one.certificate, &one.certificate),
            Unusable::Key(_)
        ));
        let encrypted = one.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let Unusable::Key(problem) = of(&one.certificate, &encrypted) else {
            panic!("the key is to blame")
        };
        assert!(problem.contains("openssl pkey"), "{problem}");
        let damaged = "-----BEGIN CERTIFICATE-----\nMTIzNDU2Nzg5MA==\n-----END CERTIFICATE-----\n";
        assert!(matches!(of(damaged, &one.key), Unusable::Certificate(_)));
    }
}
