//! Usernames and passwords of draft-uberti-behave-turn-rest-00: `<expiry>:<anything>` (or `<expiry>` alone), and
//! base64(HMAC-SHA1(secret, username)).

use zeroize::Zeroizing;

use crate::stun::{
    Message,
    integrity::{Key, PasswordAlgorithm},
};

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
        unimplemented!()
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
        unimplemented!()
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
        unimplemented!()
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}
