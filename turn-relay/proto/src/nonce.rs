//! Nonces without memory: RFC 8489 §9.2, RFC 8656 §5.
//!
//! A nonce is `obMatJos2`, four characters of security features (RFC 8489 §9.2.1: password algorithms yes, username
//! anonymity no) and 15 characters of base64: 16 bits of the time it was made, in minutes, wrapping, and 72 bits of
//! HMAC-SHA256 over that time (all of it), the client's IP address and port, with a key drawn at start. That is 28 characters: an answer to a
//! stranger must not be long.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use crate::time::Time;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 28;

/// The nonce cookie and the security features: bit 0, password algorithms, is the first of 24 (RFC 8489 §9.2, §18.1).
const COOKIE: [u8; 13] = *b"obMatJos2gAAA";
/// Bytes of the time in a nonce.
const MINUTE_LEN: usize = 2;
/// Bytes of the HMAC in a nonce.
const TAG_LEN: usize = 9;
/// How many minutes a nonce is valid, RFC 8656 §5.
const VALID_MINUTES: u16 = 60;

/// Makes nonces and knows its own again.
pub struct Nonces {
    key: hmac::Key,
}

impl Nonces {
    /// With a key from good randomness.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        }
    }

    /// A nonce for `client`.
    #[must_use]
    pub fn issue(&self, client: SocketAddr, now: Time) -> [u8; NONCE_LEN] {
        self.nonce_of(client, minutes(now))
    }

    /// Whether `nonce` was issued for `client` (address and port) within the last hour, give or take the part of a minute that it
    /// does not know: it may be too old up to a minute earlier, never later. Constant time.
    #[must_use]
    pub fn is_valid(&self, nonce: &[u8], client: SocketAddr, now: Time) -> bool {
        let Some(issued) = issued_at(nonce, minutes(now)) else {
            return false;
        };
        let right = self.nonce_of(client, issued);
        constant_time::verify_slices_are_equal(&right, nonce).is_ok()
    }

    fn nonce_of(&self, client: SocketAddr, minute: u64) -> [u8; NONCE_LEN] {
        let address = match client.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&minute.to_be_bytes());
        context.update(&address.octets());
        context.update(&client.port().to_be_bytes());
        let tag = context.sign();

        let [.., m0, m1] = minute.to_be_bytes();
        let mut value = [m0, m1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        value
            .iter_mut()
            .skip(MINUTE_LEN)
            .zip(tag.as_ref())
            .for_each(|(to, from)| *to = *from);

        let mut nonce = [0; NONCE_LEN];
        nonce[..COOKIE.len()].copy_from_slice(&COOKIE);
        STANDARD_NO_PAD
            .encode_slice(value, &mut nonce[COOKIE.len()..])
            .expect("the rest of a nonce is as long as its value in base64");
        nonce
    }
}

/// The minute in which `nonce` says it was made, if that is within the last hour before `now`. Whether it tells the truth is not looked at.
fn issued_at(nonce: &[u8], now: u64) -> Option<u64> {
    let value = nonce.strip_prefix(&COOKIE)?;
    let mut bytes = [0; MINUTE_LEN + TAG_LEN];
    let len = STANDARD_NO_PAD.decode_slice(value, &mut bytes).ok()?;
    let [m0, m1, ..] = bytes;
    let [.., n0, n1] = now.to_be_bytes();
    let age = u16::from_be_bytes([n0, n1]).wrapping_sub(u16::from_be_bytes([m0, m1]));
    (len == bytes.len() && age < VALID_MINUTES)
        .then(|| now.checked_sub(u64::from(age)))
        .flatten()
}

fn minutes(time: Time) -> u64 {
    time.as_nanos() / 60_000_000_000
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces")
    }
}
