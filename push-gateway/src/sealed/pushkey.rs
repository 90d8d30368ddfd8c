//! Sealed pushkeys (spec/opaque-push.md §7): the device token is encrypted to the gateway, so that the
//! homeserver and its database never hold it.
//!
//! HPKE in base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-128-GCM; one message
//! per encapsulated key, so that only sequence number 0 is needed.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
    digest, hmac,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// How a sealed pushkey begins.
pub const PREFIX: &str = "nk1.";

/// The longest sealed pushkey: homeservers take no longer ones.
const LONGEST: usize = 512;
const INFO: &[u8] = b"nocturne pushkey v1";
/// `enc`: an X25519 public key.
const ENC: usize = 32;
const KEY: usize = 16;
const HASH: usize = 32;
/// RFC 9180 §4.1: `"KEM"` and the KEM's number.
const KEM_SUITE: &[u8] = b"KEM\x00\x20";
/// RFC 9180 §5.1: `"HPKE"` and the numbers of KEM, KDF and AEAD.
const HPKE_SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x01";

/// The gateway's keys for sealed pushkeys, newest first.
#[derive(Default)]
pub struct PushkeyKeys(Vec<PushkeyKey>);

/// One key pair.
pub struct PushkeyKey {
    id: u8,
    private: PrivateKey,
    public: [u8; 32],
}

/// Why a sealed pushkey does not open. Closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CannotOpen {
    /// The configuration has no key at all: `pushkey_keys` was lost, or never there.
    NoKeys,
    /// Too long, not base64url, or too short to be one.
    Malformed,
    /// No key of the configuration has its key ID: it was retired.
    UnknownKey,
    /// It was made for another app or key, or was changed.
    Authentication,
}

impl PushkeyKey {
    /// The key pair of a private key.
    #[must_use]
    pub fn new(private: &[u8; 32]) -> Option<Self> {
        let private = PrivateKey::from_private_key(&X25519, private).ok()?;
        let public = private.compute_public_key().ok()?;
        let public: [u8; 32] = public.as_ref().try_into().ok()?;
        let id = digest::digest(&digest::SHA256, &public)
            .as_ref()
            .first()
            .copied()?;
        Some(Self {
            id,
            private,
            public,
        })
    }

    /// The first byte of SHA-256 of the public key.
    #[must_use]
    pub const fn id(&self) -> u8 {
        self.id
    }

    /// The public key: what clients seal to.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

impl PushkeyKeys {
    /// Takes the keys in, newest first.
    ///
    /// # Errors
    ///
    /// The key ID that two of them have.
    pub fn new(keys: Vec<PushkeyKey>) -> Result<Self, u8> {
        let mut seen = [false; 256];
        for key in &keys {
            if std::mem::replace(&mut seen[usize::from(key.id)], true) {
                return Err(key.id);
            }
        }
        Ok(Self(keys))
    }

    /// The keys, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &PushkeyKey> {
        self.0.iter()
    }

    /// What a sealed pushkey stands for; `None` for a pushkey that is not sealed.
    ///
    /// # Errors
    ///
    /// See [`CannotOpen`]: the pushkey is to be rejected, but for [`CannotOpen::NoKeys`].
    pub fn open(&self, app_id: &str, pushkey: &str) -> Result<Option<String>, CannotOpen> {
        let Some(sealed) = pushkey.strip_prefix(PREFIX) else {
            return Ok(None);
        };
        if self.0.is_empty() {
            return Err(CannotOpen::NoKeys);
        }
        if pushkey.len() > LONGEST {
            return Err(CannotOpen::Malformed);
        }
        let mut sealed = URL_SAFE_NO_PAD
            .decode(sealed.trim_end_matches('='))
            .map_err(|_| CannotOpen::Malformed)?;
        let Some((id, rest)) = sealed.split_first_mut() else {
            return Err(CannotOpen::Malformed);
        };
        let Some((enc, ciphertext)) = rest.split_first_chunk_mut::<ENC>() else {
            return Err(CannotOpen::Malformed);
        };
        let key = self
            .0
            .iter()
            .find(|key| key.id == *id)
            .ok_or(CannotOpen::UnknownKey)?;
        let plaintext = key
            .open(enc, app_id.as_bytes(), ciphertext)
            .ok_or(CannotOpen::Authentication)?;
        token(plaintext).map(Some).ok_or(CannotOpen::Malformed)
    }
}

/// `len16(token) ‖ token ‖ zeros`
fn token(plaintext: &[u8]) -> Option<String> {
    let (length, rest) = plaintext.split_first_chunk::<2>()?;
    let token = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    String::from_utf8(token.to_vec()).ok()
}

impl PushkeyKey {
    /// RFC 9180 §6.1: `OpenBase`.
    fn open<'text>(
        &self,
        enc: &[u8; ENC],
        aad: &[u8],
        ciphertext: &'text mut [u8],
    ) -> Option<&'text [u8]> {
        let secret = self.decapsulate(enc)?;
        let (key, nonce) = schedule(&secret);
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).ok()?);
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.open_in_place(nonce, Aad::from(aad), ciphertext)
            .ok()
            .map(|text| &*text)
    }

    /// RFC 9180 §4.1: `Decap`.
    fn decapsulate(&self, enc: &[u8; ENC]) -> Option<Zeroizing<[u8; HASH]>> {
        let theirs = UnparsedPublicKey::new(&X25519, enc);
        let eae_prk = agree(&self.private, theirs, (), |shared| {
            Ok::<_, ()>(extract(&[], KEM_SUITE, b"eae_prk", shared))
        })
        .ok()?;
        let mut both = [0; 2 * ENC];
        both[..ENC].copy_from_slice(enc);
        both[ENC..].copy_from_slice(&self.public);
        Some(expand(&eae_prk, KEM_SUITE, b"shared_secret", &both))
    }
}

/// RFC 9180 §5.1: `KeySchedule` in base mode; the AEAD key and the nonce of the first message.
fn schedule(shared_secret: &[u8; HASH]) -> (Zeroizing<[u8; KEY]>, [u8; NONCE_LEN]) {
    let mut context = [0; 1 + 2 * HASH];
    context[1..=HASH].copy_from_slice(&*extract(&[], HPKE_SUITE, b"psk_id_hash", b""));
    context[1 + HASH..].copy_from_slice(&*extract(&[], HPKE_SUITE, b"info_hash", INFO));
    let secret = extract(shared_secret, HPKE_SUITE, b"secret", b"");
    let key = expand(&secret, HPKE_SUITE, b"key", &context);
    let nonce = expand(&secret, HPKE_SUITE, b"base_nonce", &context);
    (key, *nonce)
}

/// RFC 9180 §4: `LabeledExtract` with HKDF-SHA256, whose extraction is one HMAC (RFC 5869 §2.2).
fn extract(salt: &[u8], suite: &[u8], label: &[u8], secret: &[u8]) -> Zeroizing<[u8; HASH]> {
    hmac_sha256(salt, &[b"HPKE-v1", suite, label, secret])
}

/// RFC 9180 §4: `LabeledExpand` to at most one block of HKDF-SHA256 (RFC 5869 §2.3).
fn expand<const N: usize>(
    secret: &[u8; HASH],
    suite: &[u8],
    label: &[u8],
    info: &[u8],
) -> Zeroizing<[u8; N]> {
    const { assert!(N <= HASH, "one block of output") };
    let length = u16::try_from(N).unwrap_or(u16::MAX).to_be_bytes();
    let block = hmac_sha256(secret, &[&length, b"HPKE-v1", suite, label, info, &[1]]);
    let mut output = Zeroizing::new([0; N]);
    output.copy_from_slice(&block[..N]);
    output
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; HASH]> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        mac.update(part);
    }
    let mut output = Zeroizing::new([0; HASH]);
    output.copy_from_slice(mac.sign().as_ref());
    output
}

impl CannotOpen {
    /// The metric label and log value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoKeys => "no_keys",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Authentication => "authentication",
        }
    }
}

impl fmt::Debug for PushkeyKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PushkeyKeys({})", self.0.len())
    }
}

impl fmt::Debug for PushkeyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PushkeyKey({})", self.id)
    }
}
