//! Keys of the long-term credential mechanism and what they protect, RFC 8489 §9.2.2, §14.5 to §14.7, §18.5.

use aws_lc_rs::{digest, hmac};
use md5::{Digest as _, Md5};
use zeroize::Zeroize;

/// A way to make a key of a password, RFC 8489 §18.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PasswordAlgorithm {
    /// 0x0001: what clients use that do not know of algorithms.
    Md5,
    /// 0x0002.
    Sha256,
}

impl PasswordAlgorithm {
    /// Its number in PASSWORD-ALGORITHM.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }
}

/// What a message is authenticated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegrityKind {
    /// MESSAGE-INTEGRITY: HMAC-SHA1, 20 bytes.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256: HMAC-SHA256, 16 to 32 bytes.
    Sha256,
}

/// A long-term key. It is wiped when it is dropped, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    bytes: [u8; 32],
    algorithm: PasswordAlgorithm,
}

impl Key {
    /// The key of `username`, `realm` and `password`, all of them after OpaqueString (RFC 8265), RFC 8489 §18.5.1.
    #[must_use]
    pub fn new(
        algorithm: PasswordAlgorithm,
        username: &[u8],
        realm: &[u8],
        password: &[u8],
    ) -> Self {
        let parts: [&[u8]; 5] = [username, b":", realm, b":", password];
        let mut bytes = [0; 32];
        match algorithm {
            PasswordAlgorithm::Md5 => {
                let mut context = Md5::new();
                for part in parts {
                    context.update(part);
                }
                bytes[..16].copy_from_slice(&context.finalize());
            }
            PasswordAlgorithm::Sha256 => {
                let mut context = digest::Context::new(&digest::SHA256);
                for part in parts {
                    context.update(part);
                }
                bytes.copy_from_slice(context.finish().as_ref());
            }
        }
        Self { bytes, algorithm }
    }

    /// The password itself, as the short-term mechanism has it (RFC 8489 §9.1.1): no use here but for test vectors. Up to 32 bytes, and
    /// zeros behind it: HMAC puts such there anyway.
    #[cfg(test)]
    pub(crate) fn of_password(password: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes[..password.len()].copy_from_slice(password);
        Self {
            bytes,
            algorithm: PasswordAlgorithm::Sha256,
        }
    }

    /// How it was made.
    #[must_use]
    pub const fn algorithm(&self) -> PasswordAlgorithm {
        self.algorithm
    }

    fn as_bytes(&self) -> &[u8] {
        match self.algorithm {
            PasswordAlgorithm::Md5 => &self.bytes[..16],
            PasswordAlgorithm::Sha256 => &self.bytes,
        }
    }

    /// HMAC over `parts`, one after the other.
    pub(super) fn sign(&self, kind: IntegrityKind, parts: [&[u8]; 3]) -> hmac::Tag {
        let algorithm = match kind {
            IntegrityKind::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            IntegrityKind::Sha256 => hmac::HMAC_SHA256,
        };
        let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, self.as_bytes()));
        for part in parts {
            context.update(part);
        }
        context.sign()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// The value of FINGERPRINT over `parts`, RFC 8489 §14.7.
pub(super) fn fingerprint(parts: [&[u8]; 3]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize() ^ 0x5354_554E
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_rfc() {
        // RFC 8489 §9.2.2: the digest of "user:realm:pass"; by md5sum and sha256sum
        let key = |algorithm| Key::new(algorithm, b"user", b"realm", b"pass");
        assert_eq!(
            key(PasswordAlgorithm::Md5).as_bytes(),
            0x8493_fbc5_3ba5_82fb_4c04_4c45_6bdc_40eb_u128.to_be_bytes()
        );
        let sha256 = [
            0x07e9_3411_7abd_4083_6e7c_6329_b547_31b2_u128,
            0xb2d2_a5f9_a71f_5449_22d7_5e07_30d8_251b,
        ];
        assert_eq!(
            key(PasswordAlgorithm::Sha256).as_bytes(),
            sha256.map(u128::to_be_bytes).as_flattened()
        );
    }

    #[test]
    fn a_fingerprint_is_the_crc_of_ethernet_with_a_mask() {
        // the check value of CRC-32 is 0xCBF43926
        assert_eq!(
            fingerprint([b"1234", b"", b"56789"]),
            0xCBF4_3926 ^ 0x5354_554E
        );
    }

    #[test]
    fn algorithms_have_the_numbers_of_the_registry() {
        assert_eq!(PasswordAlgorithm::Md5.number(), 1);
        assert_eq!(PasswordAlgorithm::Sha256.number(), 2);
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = Key::new(PasswordAlgorithm::Md5, b"user", b"realm", b"pass");
        assert_eq!(format!("{key:?}"), "Key { algorithm: Md5, .. }");
    }

    #[test]
    fn parts_are_signed_as_one() {
        let key = Key::new(PasswordAlgorithm::Md5, b"user", b"realm", b"pass");
        for kind in [IntegrityKind::Sha1, IntegrityKind::Sha256] {
            let whole = key.sign(kind, [b"abcdef", b"", b""]);
            let parts = key.sign(kind, [b"ab", b"cde", b"f"]);
            assert_eq!(whole.as_ref(), parts.as_ref());
        }
    }
}
