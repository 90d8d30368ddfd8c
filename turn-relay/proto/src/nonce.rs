//! Nonces without memory: RFC 8489 §9.2, RFC 8656 §5.
//!
//! A nonce is `obMatJos2`, four characters of security features (RFC 8489 §9.2.1: password algorithms yes, username
//! anonymity no), and 15 characters of base64: 16 bits of the time it was made, in minutes, wrapping, and 72 bits of
//! HMAC-SHA256 over that time (all of it), the client's IP address and port, with a key drawn at start. That is 28 characters: an answer to a
//! stranger must not be long.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use crate::time::Time;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 28;

/// The nonce cookie and the security features, RFC 8489 §9.2.
///
/// Of 24 bits, "password algorithms" is the leftmost by the text of §18.1 and the rightmost by its erratum 6290, which is verified
/// and agrees with the example of appendix B.1. There are clients of both kinds: both bits are set, and nothing is assigned to either of them by
/// the other reading.
const COOKIE: [u8; 13] = *b"obMatJos2gAAB";
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

    /// Whether `nonce` was issued for `client` (address and port) within the last hour. Constant time.
    ///
    /// A nonce knows its minute, not its second: its hour may end up to a minute early, never late.
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
        let (cookie, rest) = nonce.split_at_mut(COOKIE.len());
        cookie.copy_from_slice(&COOKIE);
        STANDARD_NO_PAD
            .encode_slice(value, rest)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn the_features_are_password_algorithms_by_either_count_of_bits_and_nothing_else() {
        let nonce = nonces().issue(client(), Time::default());
        let features = nonce.strip_prefix(b"obMatJos2").unwrap();
        let bits = STANDARD.decode(&features[..4]).unwrap();
        // bit 0 from the left (RFC 8489 §18.1) and from the right (its erratum 6290)
        assert_eq!(bits, [0b1000_0000, 0, 0b0000_0001]);
    }

    #[test]
    fn a_nonce_is_valid_within_the_hour_for_whom_it_was_made() {
        for minute in [0, 1, 59, 0xFFFF, 0x1_0000, 0x1_0001, 0x7_FFF0] {
            let issued = Time::default() + MINUTE * minute + Duration::from_secs(7);
            let nonce = nonces().issue(client(), issued);
            for (age, valid) in [
                (Duration::ZERO, true),
                (MINUTE * 59, true),
                (Duration::from_secs(3_592), true),
                (MINUTE * 60, false),
                (MINUTE * 61, false),
                (MINUTE * 0xFFFF, false),
                (MINUTE * 0x1_0000, false),
                (MINUTE * 0x1_0001, false),
            ] {
                let now = issued + age;
                assert_eq!(
                    nonces().is_valid(&nonce, client(), now),
                    valid,
                    "made in minute {minute}, shown {age:?} later"
                );
            }
        }
    }

    #[test]
    fn a_nonce_of_the_future_is_not_valid() {
        let now = Time::default() + MINUTE * 100;
        let nonce = nonces().issue(client(), now + MINUTE * 2);
        assert!(!nonces().is_valid(&nonce, client(), now));
        // not even right after the start, when the time that it names by its 16 bits was before it
        let nonce = nonces().issue(client(), Time::default() + MINUTE * 0xFFFF);
        assert!(!nonces().is_valid(&nonce, client(), Time::default() + MINUTE));
    }

    #[test]
    fn a_nonce_is_for_one_address_and_port() {
        let now = Time::default() + MINUTE;
        let nonce = nonces().issue(client(), now);
        for (other, valid) in [
            ("192.0.2.1:40000", true),
            ("[::ffff:192.0.2.1]:40000", true),
            ("192.0.2.1:40001", false),
            ("192.0.2.2:40000", false),
            ("[2001:db8::1]:40000", false),
        ] {
            let other = other.parse().unwrap();
            assert_eq!(nonces().is_valid(&nonce, other, now), valid, "{other}");
        }
    }

    #[test]
    fn a_nonce_of_another_key_is_not_valid() {
        let now = Time::default() + MINUTE;
        let nonce = Nonces::new([8; 32]).issue(client(), now);
        assert!(!nonces().is_valid(&nonce, client(), now));
    }

    #[test]
    fn no_bit_of_a_nonce_can_be_changed() {
        let now = Time::default() + MINUTE * 1000;
        let nonce = nonces().issue(client(), now);
        for bit in 0..NONCE_LEN * 8 {
            let mut changed = nonce;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!nonces().is_valid(&changed, client(), now), "bit {bit}");
        }
        assert!(!nonces().is_valid(&nonce[..27], client(), now));
        assert!(!nonces().is_valid(&[nonce.as_slice(), b"="].concat(), client(), now));
        assert!(!nonces().is_valid(&[], client(), now));
    }

    #[test]
    fn a_nonce_can_stand_in_a_quoted_string() {
        // RFC 8489 §14.10: qdtext of RFC 3261, without quotes and backslashes
        for minute in 0..500 {
            let nonce = nonces().issue(client(), Time::default() + MINUTE * minute);
            assert!(
                nonce
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || [b'+', b'/'].contains(byte))
            );
        }
    }

    proptest! {
        #[test]
        fn an_hour_is_an_hour_from_any_moment(
            issued in 0..u64::MAX / 2,
            age in 0..10_800_000_000_000_u64,
            address in any::<SocketAddr>(),
        ) {
            let nonce = nonces().issue(address, Time::from_nanos(issued));
            let valid = nonces().is_valid(&nonce, address, Time::from_nanos(issued + age));
            let age = Duration::from_nanos(age);
            prop_assert!(valid || age > MINUTE * 59);
            prop_assert!(!valid || age < MINUTE * 60);
        }

        #[test]
        fn what_was_not_issued_is_not_valid(
            mut bytes in prop::collection::vec(any::<u8>(), 0..60),
            alphabet in any::<bool>(),
            cookie in any::<bool>(),
        ) {
            if alphabet {
                for byte in &mut bytes {
                    *byte = b'A' + *byte % 26;
                }
            }
            if cookie {
                bytes.splice(0..0, COOKIE);
            }
            prop_assert!(!nonces().is_valid(&bytes, client(), Time::default() + MINUTE));
        }
    }

    fn nonces() -> Nonces {
        Nonces::new([7; 32])
    }

    fn client() -> SocketAddr {
        "192.0.2.1:40000".parse().unwrap()
    }
}
