//! A certificate authority that lives as long as its test.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

/// An authority, and the server certificate that it issued, as files.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The authority's own certificate.
    pub(crate) ca: PathBuf,
    /// The server's certificate and the authority's.
    pub(crate) certificate: PathBuf,
    /// The server's private key.
    pub(crate) key: PathBuf,
}

impl Authority {
    /// Writes its files into `folder`: with a server certificate for `addresses`.
    pub(crate) fn new(folder: &Path, addresses: &[IpAddr]) -> Self {
        let key = KeyPair::generate().expect("there is randomness");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Nocturne tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate can be made");

        let key = KeyPair::generate().expect("there is randomness");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "relay under test");
        params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params
            .signed_by(&key, &issuer)
            .expect("a certificate can be made");

        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).expect("the folder can be written to");
            path
        };
        Self {
            ca: write("ca.pem", issuer.pem()),
            certificate: write("chain.pem", certificate.pem() + &issuer.pem()),
            key: write("key.pem", key.serialize_pem()),
            issuer,
        }
    }

    /// TLS for a client that trusts this authority alone.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.issuer.der().clone())
            .expect("the authority's certificate is one");
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}
