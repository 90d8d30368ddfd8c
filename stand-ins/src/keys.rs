//! The keys with which a gateway proves who it is, as the providers hand them out.

use std::{fmt, io};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::json;

use crate::support::{base64url, hex, other, pem, random};

/// A signing key from Apple's developer account (`AuthKey_….p8`).
#[derive(Clone)]
pub struct ApnsKey {
    key_id: String,
    team_id: String,
    pem: String,
    public: Vec<u8>,
}

/// A Google service account with its own RSA key.
#[derive(Clone)]
pub struct ServiceAccount {
    project_id: String,
    client_email: String,
    key_id: String,
    pem: String,
    public: Vec<u8>,
}

/// A key with which an application server identifies itself to push services (RFC 8292).
#[derive(Clone)]
pub struct VapidKey {
    pem: String,
    public: Vec<u8>,
}

impl ApnsKey {
    /// A new key.
    pub fn generate(key_id: &str, team_id: &str) -> io::Result<Self> {
        let (pem, public) = p256()?;
        Ok(Self {
            key_id: key_id.to_owned(),
            team_id: team_id.to_owned(),
            pem,
            public,
        })
    }

    /// The text of the `.p8` file.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The ten characters by which Apple knows the key.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The team that the key belongs to.
    #[must_use]
    pub fn team_id(&self) -> &str {
        &self.team_id
    }

    /// The uncompressed public point.
    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }
}

impl ServiceAccount {
    /// A new account; its 2048-bit key takes a fraction of a second to find.
    pub fn generate(project_id: &str) -> io::Result<Self> {
        let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).map_err(other)?;
        let private: Pkcs8V1Der<'_> = key.as_der().map_err(other)?;
        Ok(Self {
            project_id: project_id.to_owned(),
            client_email: format!("push@{project_id}.iam.gserviceaccount.com"),
            key_id: hex(&random::<20>()),
            pem: pem("PRIVATE KEY", private.as_ref()),
            public: key.public_key().as_ref().to_vec(),
        })
    }

    /// The text of the JSON file that Google's console offers for download.
    #[must_use]
    pub fn json(&self, token_uri: &str) -> String {
        format!(
            "{:#}\n",
            json!({
                "type": "service_account",
                "project_id": self.project_id,
                "private_key_id": self.key_id,
                "private_key": self.pem,
                "client_email": self.client_email,
                "client_id": "100000000000000000000",
                "auth_uri": "https://accounts.google.com/o/oauth2/auth",
                "token_uri": token_uri,
                "universe_domain": "googleapis.com",
            })
        )
    }

    /// The project that the account may send for.
    #[must_use]
    pub fn project_id(&self) -> &str {
        &self.project_id
    }

    /// The account's name.
    #[must_use]
    pub fn client_email(&self) -> &str {
        &self.client_email
    }

    /// The public key as PKCS#1 has it.
    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }
}

impl VapidKey {
    /// A new key.
    pub fn generate() -> io::Result<Self> {
        let (pem, public) = p256()?;
        Ok(Self { pem, public })
    }

    /// The private key's PEM text.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The public key as browsers take it (`applicationServerKey`).
    #[must_use]
    pub fn public(&self) -> String {
        base64url(&self.public)
    }
}

impl fmt::Debug for ApnsKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ApnsKey({})", self.key_id)
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ServiceAccount({})", self.client_email)
    }
}

impl fmt::Debug for VapidKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "VapidKey({})", self.public())
    }
}

/// A P-256 key: PKCS#8 PEM and the uncompressed public point.
fn p256() -> io::Result<(String, Vec<u8>)> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(other)?;
    let private = key.to_pkcs8v1().map_err(other)?;
    Ok((
        pem("PRIVATE KEY", private.as_ref()),
        key.public_key().as_ref().to_vec(),
    ))
}
