//! The certificate that clients see: read, checked, offered, and read again when it was renewed.
//!
//! [`Certificates::current`] is what a new connection takes; connections keep what they began with.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ServerSessionMemoryCache},
    sign::{CertifiedKey, SingleCertAndKey},
};
use shared::{
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

/// How often the files are looked at.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Sessions that can be resumed; TURN clients seldom come back.
const RESUMABLE_SESSIONS: usize = 1024;

/// A certificate with its chain and its key, which fit together.
pub struct Identity {
    certified: Arc<CertifiedKey>,
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
        let damaged = || {
            Unusable::Certificate("its first certificate is damaged (get it again)".to_owned())
        };
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| damaged())?;
        let validity = parsed.validity();
        let (not_before, not_after) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        let ends = validity.not_after.to_string();
        let names = names(&parsed);

        let certified = CertifiedKey::from_der(chain, private_key(key)?, &crypto_provider());
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Unusable::Key(
                "the private key does not belong to the certificate (are both of the same renewal?)"
                    .to_owned(),
            ),
            rustls::Error::InvalidCertificate(_) => damaged(),
            _ => Unusable::Key(
                "its private key cannot be used: expected RSA, ECDSA on P-256, P-384 or P-521, or Ed25519"
                    .to_owned(),
            ),
        })?;
        Ok(Self {
            certified: Arc::new(certified),
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
                .map_err(|problem| format!("the file {path:?} cannot be read: {problem}"))
        };
        Self::of_pem(&content(certificate)?, &content(key)?).map_err(|problem| match problem {
            Unusable::Certificate(problem) => format!("the file {certificate:?}: {problem}"),
            Unusable::Key(problem) => format!("the file {key:?}: {problem}"),
        })
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
    pub fn server_configs(&self) -> Result<ServerConfigs, String> {
        let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&self.certified)));
        let sessions = ServerSessionMemoryCache::new(RESUMABLE_SESSIONS);
        let config = |protocol: Option<&[u8]>| {
            let builder = ServerConfig::builder_with_provider(crypto_provider())
                .with_safe_default_protocol_versions()
                .map_err(|error| format!("TLS cannot be set up: {error}"))?;
            let mut config = builder
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(&resolver) as _);
            config.session_storage = Arc::clone(&sessions) as _;
            config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
            Ok::<_, String>(Arc::new(config))
        };
        Ok(ServerConfigs {
            turn: config(Some(ALPN_TURN))?,
            nat_discovery: config(Some(ALPN_NAT_DISCOVERY))?,
            without_protocol: config(None)?,
            not_after: self.not_after,
        })
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

/// One identity's configurations of rustls.
///
/// rustls takes the first protocol of the *server's* list, and refuses a client that offers none of them.
/// RFC 7443 §3 wants the client's order, and whoever offers something else is a client all the same. So
/// there is a configuration for each answer, chosen by the client's first message.
#[derive(Clone, Debug)]
pub struct ServerConfigs {
    turn: Arc<ServerConfig>,
    nat_discovery: Arc<ServerConfig>,
    without_protocol: Arc<ServerConfig>,
    not_after: i64,
}

impl ServerConfigs {
    /// When the certificate expires, in seconds since 1970.
    #[must_use]
    pub const fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The configuration for the client that said `hello`, as [`rustls::server::Acceptor`] hands it out:
    /// it selects the first protocol of the client's that is known, else none.
    #[must_use]
    pub fn for_client(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let offered = hello.alpn().into_iter().flatten();
        Arc::clone(self.for_protocols(offered))
    }

    fn for_protocols<'a>(&self, offered: impl Iterator<Item = &'a [u8]>) -> &Arc<ServerConfig> {
        for protocol in offered {
            match protocol {
                ALPN_TURN => return &self.turn,
                ALPN_NAT_DISCOVERY => return &self.nat_discovery,
                _ => {}
            }
        }
        &self.without_protocol
    }
}

/// What new connections are served with. Shared by all threads; reading takes no lock.
#[derive(Debug)]
pub struct Certificates {
    current: ArcSwapOption<ServerConfigs>,
    watched: Mutex<Option<Watched>>,
}

/// The files that are looked at.
#[derive(Debug)]
struct Watched {
    certificate: PathBuf,
    key: PathBuf,
    /// What the files were when they were last read; none: not yet read by [`Certificates::look`].
    seen: Option<[Fingerprint; 2]>,
    in_use: Arc<Identity>,
    /// Whether the files cannot be used as they are, and that has been said.
    complained: bool,
}

/// Time of the last change, length and inode; none: there is no file. Other content without any of them
/// changed is next to impossible.
type Fingerprint = Option<(Option<SystemTime>, u64, u64)>;

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
    /// Serves with nothing until [`Certificates::replace`].
    #[must_use]
    pub fn none() -> Self {
        Self {
            current: ArcSwapOption::empty(),
            watched: Mutex::new(None),
        }
    }

    /// What a new connection is served with; none when there is no certificate.
    #[must_use]
    pub fn current(&self) -> Option<Arc<ServerConfigs>> {
        self.current.load_full()
    }

    /// Serves new connections with `identity`, and watches the files that it is from.
    ///
    /// # Errors
    ///
    /// As [`Identity::server_configs`]; what was there before stays in use.
    pub fn replace(
        &self,
        identity: Arc<Identity>,
        certificate: &Path,
        key: &Path,
    ) -> Result<(), String> {
        let configs = identity.server_configs()?;
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        *watched = Some(Watched {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            seen: None,
            in_use: identity,
            complained: false,
        });
        self.current.store(Some(Arc::new(configs)));
        Ok(())
    }

    /// Ends TLS for new connections.
    pub fn remove(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        *watched = None;
        self.current.store(None);
    }

    /// Reads the files if one of them changed, and uses them if they fit together. A pair of which one
    /// file is still the old one, or half written, is tried again at each look, and complained of once.
    pub fn look(&self) -> Look {
        let mut guard = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watched) = guard.as_mut() else {
            return Look::Unchanged;
        };
        // Taken before reading: what is written meanwhile shows at the next look.
        let seen = [&watched.certificate, &watched.key].map(|path| fingerprint(path));
        if watched.seen == Some(seen) && !watched.complained {
            return Look::Unchanged;
        }
        watched.seen = Some(seen);
        let read = Identity::read(&watched.certificate, &watched.key)
            .and_then(|identity| Ok((identity.server_configs()?, identity)));
        match read {
            Ok((configs, identity)) => {
                watched.complained = false;
                if identity.certified.cert == watched.in_use.certified.cert {
                    return Look::Unchanged;
                }
                info!(expires = %identity.ends, "there is another certificate: new connections get it");
                watched.in_use = Arc::new(identity);
                self.current.store(Some(Arc::new(configs)));
                Look::Replaced
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

#[cfg(unix)]
fn fingerprint(path: &Path) -> Fingerprint {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len(), metadata.ino()))
}

#[cfg(not(unix))]
fn fingerprint(path: &Path) -> Fingerprint {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len(), 0))
}
