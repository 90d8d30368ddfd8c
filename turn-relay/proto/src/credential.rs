//! Usernames and passwords of draft-uberti-behave-turn-rest-00: `<expiry>:<anything>` (or `<expiry>` alone), and
//! base64(HMAC-SHA1(secret, username)).

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::stun::{
    Message,
    integrity::{Key, PasswordAlgorithm},
};

/// The digits of 2^64 - 1.
const MAX_EXPIRY_DIGITS: usize = 20;
/// Characters of an HMAC-SHA1 in base64.
const PASSWORD_LEN: usize = 28;

/// The secrets that passwords are made with, the newest first. Wiped when dropped; `Debug` does not show them.
pub struct Secrets(Vec<Zeroizing<Vec<u8>>>);

/// A username in its two parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RestUsername<'a> {
    /// Seconds since 1970: from that second on the username is expired.
    pub expiry: u64,
    /// What is behind the first colon; the whole username, if there is no colon or nothing behind it. It may be who it is for: never logged.
    pub user: &'a [u8],
}

impl<'a> RestUsername<'a> {
    /// `None` unless it begins with 1 to 20 decimal digits that fit a `u64`, followed by a colon or the end.
    #[must_use]
    pub fn parse(username: &'a [u8]) -> Option<Self> {
        let colon = username.iter().position(|byte| *byte == b':');
        let (digits, behind) = match colon.and_then(|at| username.split_at_checked(at)) {
            Some((digits, [_, behind @ ..])) => (digits, behind),
            Some((digits, behind)) => (digits, behind),
            None => (username, [].as_slice()),
        };
        if !(1..=MAX_EXPIRY_DIGITS).contains(&digits.len()) {
            return None;
        }
        let expiry = digits.iter().try_fold(0_u64, |number, digit| {
            let value = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            number.checked_mul(10)?.checked_add(value)
        })?;
        let user = if behind.is_empty() { username } else { behind };
        Some(Self { expiry, user })
    }
}

impl Secrets {
    /// As configured; at least one, or nobody is authentic.
    #[must_use]
    pub fn new(secrets: Vec<Vec<u8>>) -> Self {
        Self(secrets.into_iter().map(Zeroizing::new).collect())
    }

    /// The password for `username` by the newest secret; empty if there is no secret.
    #[must_use]
    pub fn password(&self, username: &[u8]) -> Zeroizing<String> {
        let newest = self.0.first().map(|secret| password(secret, username));
        let text = newest
            .as_deref()
            .and_then(|bytes| str::from_utf8(bytes).ok());
        Zeroizing::new(text.unwrap_or_default().to_owned())
    }

    /// The key by which `message` is authentic, if one of the secrets makes it.
    #[must_use]
    pub fn authenticate(
        &self,
        message: &Message<'_>,
        algorithm: PasswordAlgorithm,
        username: &[u8],
        realm: &[u8],
    ) -> Option<Key> {
        // all of them are tried, so that the time that it takes does not tell which secret it was
        self.0.iter().fold(None, |found, secret| {
            let key = Key::new(
                algorithm,
                username,
                realm,
                password(secret, username).as_slice(),
            );
            let authentic = message.is_authentic(&key);
            found.or(authentic.then_some(key))
        })
    }
}

fn password(secret: &[u8], username: &[u8]) -> Zeroizing<[u8; PASSWORD_LEN]> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let mut password = Zeroizing::new([0; PASSWORD_LEN]);
    STANDARD
        .encode_slice(hmac::sign(&key, username), password.as_mut_slice())
        .expect("an HMAC-SHA1 is as long as it is");
    password
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}
