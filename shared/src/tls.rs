//! TLS with one cryptography provider, and whom to trust.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::{environment::Environment, files};

/// The one cryptography provider of all TLS in this project.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The system's certificate authorities, and those of `SSL_CERT_FILE` and `SSL_CERT_DIR` besides.
///
/// # Errors
///
/// A text that names what could not be read, when that leaves nobody to trust or when a variable
/// names a file without a single certificate.
pub fn roots(environment: &Environment) -> Result<RootCertStore, String> {
    let file = environment.get("SSL_CERT_FILE");
    let directory = environment.get("SSL_CERT_DIR");
    let mut store = RootCertStore::empty();
    if file.is_some() || directory.is_some() {
        let extra = rustls_native_certs::load_certs_from_paths(None, directory.map(Path::new));
        let mut problems = extra.errors.iter().map(ToString::to_string);
        let mut problem = problems.next();
        let mut certificates = extra.certs;
        match file.map(|file| files::read(Path::new(file))) {
            Some(Ok(content)) => {
                certificates.extend(CertificateDer::pem_slice_iter(&content).flatten());
            }
            Some(Err(error)) => problem = Some(error.to_string()),
            None => {}
        }
        if add(&mut store, certificates) == 0 {
            let named = [("SSL_CERT_FILE", file), ("SSL_CERT_DIR", directory)]
                .iter()
                .filter_map(|(name, value)| value.map(|value| format!("{name}={value}")))
                .collect::<Vec<_>>()
                .join(", ");
            let why = problem.map_or_else(String::new, |problem| format!(" ({problem})"));
            return Err(format!(
                "no certificate authority could be read from {named}{why}"
            ));
        }
    }
    add(&mut store, system());
    if store.is_empty() {
        return Err(
            "no certificate authorities found on this system: install ca-certificates, or name a file in SSL_CERT_FILE"
                .to_owned(),
        );
    }
    Ok(store)
}

/// Adds what can be used and says how many that were.
fn add(store: &mut RootCertStore, certificates: Vec<CertificateDer<'static>>) -> usize {
    store.add_parsable_certificates(certificates).0
}

/// Where Linux distributions and the BSDs keep their certificate authorities in one file.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// The system's own store. Where the platform library lets the variables *replace* it, it is looked up
/// by its usual places, since here they add to it.
fn system() -> Vec<CertificateDer<'static>> {
    if cfg!(any(target_vendor = "apple", windows)) {
        return rustls_native_certs::load_native_certs().certs;
    }
    BUNDLES
        .iter()
        .map(Path::new)
        .find(|bundle| bundle.exists())
        .map(|bundle| rustls_native_certs::load_certs_from_paths(Some(bundle), None).certs)
        .or_else(|| {
            openssl_probe::candidate_cert_dirs()
                .map(|directory| {
                    rustls_native_certs::load_certs_from_paths(None, Some(&directory.join("certs")))
                        .certs
                })
                .find(|certificates| !certificates.is_empty())
        })
        .unwrap_or_default()
}
