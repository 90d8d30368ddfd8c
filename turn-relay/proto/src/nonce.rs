//! Nonces without memory: RFC 8489 §9.2, RFC 8656 §5.
//!
//! A nonce is `obMatJos2`, four characters of security features (RFC 8489 §9.2.1: password algorithms yes, username
//! anonymity no) and 15 characters of base64: 16 bits of the time it was made, in minutes, wrapping, and 72 bits of
//! HMAC-SHA256 over that, the client's IP address and port, with a key drawn at start. That is 28 characters: an answer to a
//! stranger must not be long.

use std::net::SocketAddr;

use crate::time::Time;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 28;

/// Makes nonces and knows its own again.
pub struct Nonces {
    key: [u8; 32],
}

impl Nonces {
    /// With a key from good randomness.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// A nonce for `client`.
    #[must_use]
    pub fn issue(&self, client: SocketAddr, now: Time) -> [u8; NONCE_LEN] {
        unimplemented!()
    }

    /// Whether `nonce` was issued for `client` (address and port) within the last hour. Constant time.
    #[must_use]
    pub fn is_valid(&self, nonce: &[u8], client: SocketAddr, now: Time) -> bool {
        unimplemented!()
    }
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces")
    }
}
