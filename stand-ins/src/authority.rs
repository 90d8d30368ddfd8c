//! A certificate authority that lives as long as its process.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};

use crate::{
    support::{other, wall},
    unix_seconds,
};

/// The attribute `UID` (RFC 4519 §2.39), in which Apple puts an app's topic.
const USER_ID: &[u64] = &[0, 9, 2342, 19_200_300, 100, 1, 1];
const YEAR: Duration = Duration::from_hours(365 * 24);

/// A throw-away certificate authority: what it signs is worth nothing once it is dropped, since
/// nobody else has its key.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its chain, and its private key.
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Authority {
    /// An authority with a new key.
    pub fn new() -> io::Result<Self> {
        let mut params = validity(wall() + 10 * YEAR);
        params.distinguished_name = common_name("Nocturne stand-ins");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(other)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(other)?;
        Ok(Self {
            pem: issuer.pem(),
            issuer,
        })
    }

    /// The authority's certificate, for `SSL_CERT_FILE`.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's certificate for 127.0.0.1, `::1`, localhost and `names`.
    pub fn server_identity(&self, names: &[&str]) -> io::Result<Identity> {
        let mut params = validity(wall() + YEAR);
        params.distinguished_name = common_name("localhost");
        params.subject_alt_names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            SanType::DnsName("localhost".try_into().map_err(other)?),
        ];
        for name in names {
            let name = SanType::DnsName((*name).try_into().map_err(other)?);
            params.subject_alt_names.push(name);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&params)
    }

    /// A provider certificate as Apple issues them: the subject's UID is the topic.
    pub fn client_identity(&self, topic: &str, not_after: SystemTime) -> io::Result<Identity> {
        let mut params = validity(not_after);
        params.distinguished_name = common_name(&format!("Apple Push Services: {topic}"));
        params
            .distinguished_name
            .push(DnType::from_oid(USER_ID), topic);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    /// TLS for a server with a new certificate for `names`. It asks for a client certificate of this
    /// authority and does without one, too.
    pub fn server_config(&self, names: &[&str], alpn: &[&[u8]]) -> io::Result<Arc<ServerConfig>> {
        let identity = self.server_identity(names)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
                .allow_unauthenticated()
                .build()
                .map_err(other)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(other)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![identity.certificate],
                PrivateKeyDer::Pkcs8(identity.key),
            )
            .map_err(other)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// TLS for a client that trusts this authority alone.
    pub fn client_config(&self, alpn: &[&[u8]]) -> io::Result<Arc<ClientConfig>> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(other)?
            .with_root_certificates(self.roots()?)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// TLS for a client that shows a certificate and trusts this authority alone.
    pub fn client_config_with(
        &self,
        identity: &Identity,
        alpn: &[&[u8]],
    ) -> io::Result<Arc<ClientConfig>> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(other)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(
                vec![identity.certificate.clone()],
                PrivateKeyDer::Pkcs8(identity.key.clone_key()),
            )
            .map_err(other)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Trust in this authority alone.
    pub fn roots(&self) -> io::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).map_err(other)?;
        Ok(roots)
    }

    fn issue(&self, params: &CertificateParams) -> io::Result<Identity> {
        let key = KeyPair::generate().map_err(other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(other)?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        })
    }
}

impl Identity {
    /// Certificate and key in one text, as in Sygnal's `certfile`.
    #[must_use]
    pub fn pem(&self) -> String {
        format!("{}{}", self.certificate_pem, self.key_pem)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Authority")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Identity")
    }
}

/// The topic that Apple would read from a client certificate.
pub(crate) fn topic_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    certificate
        .subject()
        .iter_by_oid(&x509_parser::oid_registry::OID_USERID)
        .next()
        .and_then(|uid| uid.as_str().ok())
        .map(ToOwned::to_owned)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// Valid from a day ago (or a day before `not_after`, for expired ones) to `not_after`.
fn validity(not_after: SystemTime) -> CertificateParams {
    let day = Duration::from_hours(24);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |time| epoch + Duration::from_secs(unix_seconds(time));
    let mut params = CertificateParams::default();
    params.not_before = at(wall().min(not_after) - day);
    params.not_after = at(not_after);
    params
}
