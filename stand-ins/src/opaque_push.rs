//! The app's side of opaque push, written for itself from `spec/opaque-push.md`: tags (§4) and sealed
//! pushkeys (§7). [`DeviceKeys`](crate::DeviceKeys) opens sealed blobs (§5).

use std::{fmt, io};

use aws_lc_rs::{digest, hmac};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128,
    hpke::{Hpke as _, HpkePublicKey},
};

use crate::support::{base64url, from_base64url, other, random};

/// What a token is padded to before it is sealed, its length included.
const PADDED: usize = 256;

/// The `secret` of a device: what it recognises its rooms and events by.
pub struct TagSecret([u8; 32]);

impl TagSecret {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(random())
    }

    /// One that was registered.
    #[must_use]
    pub fn parse(secret: &str) -> Option<Self> {
        Some(Self(from_base64url(secret)?.try_into().ok()?))
    }

    /// As the app registers it.
    #[must_use]
    pub fn secret(&self) -> String {
        base64url(&self.0)
    }

    /// What `r` is in the push with this `n` if it is about this room; none: `n` is not one.
    #[must_use]
    pub fn room(&self, n: &str, room_id: &str) -> Option<String> {
        self.tag("nocturne room\0", n, room_id)
    }

    /// What `e` is in the push with this `n` if it is about this event; none: `n` is not one.
    #[must_use]
    pub fn event(&self, n: &str, event_id: &str) -> Option<String> {
        self.tag("nocturne event\0", n, event_id)
    }

    fn tag(&self, label: &str, n: &str, id: &str) -> Option<String> {
        let n: [u8; 16] = from_base64url(n)?.try_into().ok()?;
        let message = [label.as_bytes(), &n, id.as_bytes()].concat();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), &message);
        Some(base64url(&tag.as_ref()[..16]))
    }
}

impl fmt::Debug for TagSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TagSecret([hidden])")
    }
}

/// Seals a device token to a gateway's public key (base64url, as it is served), for one app: what the
/// app registers as its pushkey.
///
/// # Errors
///
/// The key is not one, or the token is too long.
pub fn seal_pushkey(gateway_key: &str, app_id: &str, token: &str) -> io::Result<String> {
    let key = from_base64url(gateway_key).ok_or_else(|| other("the key is not base64url"))?;
    let length = u16::try_from(token.len()).map_err(other)?;
    let mut plain = [&length.to_be_bytes(), token.as_bytes()].concat();
    if plain.len() > PADDED {
        return Err(other("the token is too long"));
    }
    plain.resize(PADDED, 0);
    let (enc, sealed) = DH_KEM_X25519_HKDF_SHA256_AES_128
        .seal(
            b"nocturne pushkey v1",
            app_id.as_bytes(),
            &plain,
            &HpkePublicKey(key.clone()),
        )
        .map_err(other)?;
    let hash = digest::digest(&digest::SHA256, &key);
    let key_id = &hash.as_ref()[..1];
    let sealed = [key_id, &enc.0, &sealed].concat();
    Ok(format!("nk1.{}", base64url(&sealed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's `hmac`.
    #[test]
    fn tags_are_those_of_another_implementation() {
        let secret = TagSecret::parse(&TagSecret([7; 32]).secret()).unwrap();
        let n = "AAECAwQFBgcICQoLDA0ODw";
        assert_eq!(
            secret.room(n, "!room:example.org").as_deref(),
            Some("kaJacdcXy149jUVHI7Wkxg")
        );
        assert_eq!(
            secret.event(n, "$event:example.org").as_deref(),
            Some("H0Z4WRvQB4oRQUJiXyKL3A")
        );
        assert_eq!(secret.room("AAEC", "!room:example.org"), None);
    }

    #[test]
    fn a_sealed_pushkey_fits_and_is_never_the_same() {
        let key = base64url(&random::<32>());
        let seal = |token: &str| seal_pushkey(&key, "org.example.app", token);
        let (one, another) = (seal("token").unwrap(), seal("token").unwrap());
        assert!(one.starts_with("nk1.") && one.len() == 411, "{one}");
        assert_ne!(one, another);
        assert_eq!(seal(&"x".repeat(254)).unwrap().len(), 411);
        assert!(seal(&"x".repeat(255)).is_err());
        assert!(seal_pushkey("!", "org.example.app", "token").is_err());
    }
}
