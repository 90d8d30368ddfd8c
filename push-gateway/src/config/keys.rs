//! Keys, certificates and service accounts: opened and checked when the configuration is read.
//!
//! A problem names the file and what is wrong with it, never anything that is in it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    encoding::{AsBigEndian, EcPrivateKeyBin},
    rsa,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use shared::{
    http_client::ClientIdentity,
    key_file::{KeyFile, decode_base64, pem_blocks},
    secret::Secret,
    yaml::Value,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::ServiceAccount;
use crate::sealed::pushkey::PushkeyKey;

/// How long before its end a certificate's expiry is worth a warning: Apple's are for a year.
const EXPIRES_SOON: Duration = Duration::from_hours(30 * 24);

/// What `certfile` gives.
pub(super) struct Certificate {
    pub(super) identity: Arc<ClientIdentity>,
    pub(super) topic: String,
    pub(super) not_after: i64,
}

/// `keyfile`: the text of an Apple `.p8` file.
pub(super) fn apns_key(value: &Value<'_>) -> Option<Secret<String>> {
    const EXPECTED: &str =
        "expected the `.p8` file from Apple: an EC P-256 private key in PKCS#8 (`PRIVATE KEY`)";
    let file = KeyFile::read(value)?;
    let text = file.text()?;
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(PrivateKeyDer::Pkcs8(key)) if is_p256(key.secret_pkcs8_der()) => {}
        Ok(PrivateKeyDer::Sec1(key)) if is_p256(key.secret_sec1_der()) => {
            file.error(format_args!(
                "holds a key in the older form `EC PRIVATE KEY`, {EXPECTED} \
                 (convert it: openssl pkcs8 -topk8 -nocrypt -in KEY -out KEY.p8)"
            ));
            return None;
        }
        Ok(_) => {
            file.error(format_args!(
                "holds another kind of private key, {EXPECTED}"
            ));
            return None;
        }
        Err(_) => {
            file.error(format_args!("{}, {EXPECTED}", pem_blocks(&text)));
            return None;
        }
    }
    Some(Secret::new(text.to_string()))
}

/// `certfile`: certificate chain and private key in one PEM file.
pub(super) fn apns_certificate(value: &Value<'_>, now: SystemTime) -> Option<Certificate> {
    const EXPECTED: &str =
        "expected a PEM file with the certificate and its unencrypted private key";
    let file = KeyFile::read(value)?;
    let text = file.text()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.unwrap_or_default();
    let Some(leaf) = chain.first() else {
        file.error(format_args!(
            "no certificate can be read from it: {}, {EXPECTED}",
            pem_blocks(&text)
        ));
        return None;
    };
    let key = if text.contains("ENCRYPTED") {
        file.error(format_args!(
            "its private key is encrypted, {EXPECTED} \
             (decrypt it: openssl pkey -in FILE -out KEY, and put it in place of the encrypted one)"
        ));
        None
    } else if let Ok(key) = PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Some(key)
    } else {
        file.error(format_args!(
            "no private key can be read from it: {}, {EXPECTED}",
            pem_blocks(&text)
        ));
        None
    };

    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        file.error("its first certificate is damaged (export it again)");
        return None;
    };
    let not_after = parsed.validity().not_after;
    let now = unix_seconds(now);
    let until_expiry = not_after.timestamp() - now;
    if until_expiry <= 0 {
        file.failing(format_args!(
            "the certificate EXPIRED on {not_after}: every push of this app fails until it is \
             replaced (renew it in Apple's developer account, \
             or change to a `.p8` key, which does not expire)"
        ));
    } else if until_expiry < unix_seconds(SystemTime::UNIX_EPOCH + EXPIRES_SOON) {
        file.warning(format_args!(
            "the certificate expires on {not_after}, in {} days",
            until_expiry / (24 * 60 * 60)
        ));
    }
    if parsed.validity().not_before.timestamp() > now {
        file.warning(format_args!(
            "the certificate is valid only from {} on (is the clock right?)",
            parsed.validity().not_before
        ));
    }
    let user_id = parsed
        .subject()
        .iter_attributes()
        .find(|attribute| attribute.attr_type() == &x509_parser::oid_registry::OID_USERID)
        .and_then(|attribute| attribute.as_str().ok())
        .map(str::to_owned);
    if user_id.is_none() {
        file.error(
            "the certificate's subject has no UID, which is the topic that Apple pushes to \
             (use a certificate of the kind \"Apple Push Services\")",
        );
    }
    let key = key?;
    if let Err(error) = CertifiedKey::from_der(
        chain.clone(),
        key.clone_key(),
        &rustls::crypto::aws_lc_rs::default_provider(),
    ) {
        file.error(if matches!(error, rustls::Error::InconsistentKeys(_)) {
            "the private key does not belong to the certificate (export both together)"
        } else {
            "its private key cannot be used: expected RSA, or EC on a common curve"
        });
        return None;
    }
    Some(Certificate {
        topic: user_id?,
        not_after: not_after.timestamp(),
        identity: Arc::new(ClientIdentity { chain, key }),
    })
}

/// `vapid_private_key`, in each form that `py_vapid` reads: PEM, DER, or 32 bytes in base64.
pub(super) fn vapid_key(value: &Value<'_>) -> Option<Arc<Secret<[u8; 32]>>> {
    const EXPECTED: &str = "expected a P-256 private key \
         (make one: openssl ecparam -name prime256v1 -genkey -noout -out FILE)";
    let file = KeyFile::read(value)?;
    let text = std::str::from_utf8(file.content()).unwrap_or("");
    let key = if text.contains("-----BEGIN") {
        match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(key)) => p256_of_der(key.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Sec1(key)) => p256_of_der(key.secret_sec1_der()),
            Ok(_) => None,
            Err(_) => {
                file.error(format_args!("{}, {EXPECTED}", pem_blocks(text)));
                return None;
            }
        }
    } else {
        match decode_base64(text) {
            Some(bytes) if bytes.len() == 32 => p256_of_scalar(&bytes),
            Some(bytes) => p256_of_der(&bytes),
            None => p256_of_der(file.content()),
        }
    };
    if key.is_none() {
        file.error(format_args!("holds no such key, {EXPECTED}"));
    }
    key.map(|key| Arc::new(Secret::new(key)))
}

/// `opaque.key_file`: 32 bytes in base64.
pub(super) fn opaque_key(value: &Value<'_>) -> Option<Arc<Secret<[u8; 32]>>> {
    let key = key_of_32_bytes(
        value,
        "expected 32 bytes in base64 (make one: openssl rand -base64 32; the same file for every replica)",
    )?;
    Some(Arc::new(Secret::new(*key)))
}

/// One file of `pushkey_keys`: an X25519 private key, 32 bytes in base64.
pub(super) fn pushkey_key(value: &Value<'_>) -> Option<PushkeyKey> {
    let key = key_of_32_bytes(
        value,
        "expected 32 bytes in base64 (make one: nocturne keygen FILE)",
    )?;
    PushkeyKey::new(&key)
}

fn key_of_32_bytes(value: &Value<'_>, expected: &str) -> Option<Zeroizing<[u8; 32]>> {
    let file = KeyFile::read(value)?;
    let decoded = std::str::from_utf8(file.content())
        .ok()
        .and_then(decode_base64);
    let key = decoded.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
    if key.is_none() {
        file.error(expected);
    }
    key.map(Zeroizing::new)
}

/// `service_account_file`: the JSON file from Google's console.
pub(super) fn service_account(value: &Value<'_>) -> Option<ServiceAccount> {
    const REMEDY: &str =
        "(download the JSON key of a service account: Firebase console, project settings)";
    let file = KeyFile::read(value)?;
    // To a value and not to a struct: the errors of the latter quote what they found.
    let json: serde_json::Value = match serde_json::from_slice(file.content()) {
        Ok(json) => json,
        Err(error) => {
            file.error(format_args!(
                "not valid JSON at its line {} column {} {REMEDY}",
                error.line(),
                error.column()
            ));
            return None;
        }
    };
    let Some(object) = json.as_object() else {
        file.error(format_args!("expected a JSON object {REMEDY}"));
        return None;
    };
    if object.contains_key("project_info") {
        file.error(format_args!(
            "this is the app's google-services.json, expected a service account's key {REMEDY}"
        ));
        return None;
    }
    let kind = object.get("type").and_then(serde_json::Value::as_str);
    if kind.is_some_and(|kind| kind != "service_account") {
        file.error(format_args!("its `type` is not `service_account` {REMEDY}"));
        return None;
    }
    let text = |field: &str| {
        let found = object.get(field).and_then(serde_json::Value::as_str);
        found.filter(|text| !text.is_empty())
    };
    let required = |field: &str| {
        let found = text(field);
        if found.is_none() {
            file.error(format_args!(
                "the field `{field}` is missing or is not text {REMEDY}"
            ));
        }
        found
    };
    let client_email = required("client_email");
    let private_key = required("private_key").filter(|pem| {
        let usable = is_rsa(pem);
        if !usable {
            file.error(format_args!(
                "the field `private_key` is not an RSA private key in PEM {REMEDY}"
            ));
        }
        usable
    });
    let token_uri = text("token_uri").unwrap_or("https://oauth2.googleapis.com/token");
    let token_uri = token_uri.parse().ok().filter(|uri: &http::Uri| {
        matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some()
    });
    if token_uri.is_none() {
        file.error("the field `token_uri` is not a URL with `https://`");
    }
    Some(ServiceAccount {
        client_email: client_email?.to_owned(),
        private_key: Secret::new(private_key?.to_owned()),
        private_key_id: text("private_key_id").map(str::to_owned),
        token_uri: token_uri?,
    })
}

fn is_p256(der: &[u8]) -> bool {
    PrivateKey::from_private_key_der(&ECDH_P256, der).is_ok()
}

/// The private key in PKCS#8 or SEC1.
fn p256_of_der(der: &[u8]) -> Option<[u8; 32]> {
    scalar(&PrivateKey::from_private_key_der(&ECDH_P256, der).ok()?)
}

/// The private key's number, checked to be one of the curve's.
fn p256_of_scalar(bytes: &[u8]) -> Option<[u8; 32]> {
    scalar(&PrivateKey::from_private_key(&ECDH_P256, bytes).ok()?)
}

fn scalar(key: &PrivateKey) -> Option<[u8; 32]> {
    let scalar: EcPrivateKeyBin<'_> = key.as_be_bytes().ok()?;
    scalar.as_ref().try_into().ok()
}

fn is_rsa(pem: &str) -> bool {
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        Ok(PrivateKeyDer::Pkcs8(key)) => rsa::KeyPair::from_pkcs8(key.secret_pkcs8_der()).is_ok(),
        Ok(PrivateKeyDer::Pkcs1(key)) => rsa::KeyPair::from_der(key.secret_pkcs1_der()).is_ok(),
        Ok(_) | Err(_) => false,
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
