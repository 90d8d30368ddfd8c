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
        let mut parts = username.splitn(2, |byte| *byte == b':');
        let digits = parts.next()?;
        let behind = parts.next().unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stun::{
        AttributeType, Class, MessageWriter, Method, TransactionId, integrity::IntegrityKind,
    };

    const USERNAME: &[u8] = b"1700000000:@alice:example.org";
    const REALM: &[u8] = b"turn.example.org";

    #[test]
    fn a_username_is_read_in_two_parts() {
        for (username, expiry, user) in [
            (
                "1700000000:@alice:example.org",
                1_700_000_000,
                "@alice:example.org",
            ),
            ("1700000000:x", 1_700_000_000, "x"),
            // nobody behind it: the whole username tells users apart
            ("1700000000", 1_700_000_000, "1700000000"),
            ("1700000000:", 1_700_000_000, "1700000000:"),
            ("1700000000::", 1_700_000_000, ":"),
            ("0:x", 0, "x"),
            ("007:x", 7, "x"),
            ("18446744073709551615:x", u64::MAX, "x"),
            ("00000000000000000001:x", 1, "x"),
        ] {
            let parsed = RestUsername::parse(username.as_bytes());
            let parsed = parsed.map(|parsed| (parsed.expiry, parsed.user));
            assert_eq!(parsed, Some((expiry, user.as_bytes())), "{username}");
        }
    }

    #[test]
    fn what_has_no_expiry_is_no_username() {
        for username in [
            "",
            ":",
            ":1700000000",
            "alice",
            "alice:1700000000",
            "1700000000x:x",
            "17000 00000:x",
            " 1700000000:x",
            "+1700000000:x",
            "-1:x",
            "1e9:x",
            "0x10:x",
            "1700000000.5:x",
            "18446744073709551616:x",
            "99999999999999999999:x",
            "000000000000000000001:x",
            "\u{0661}\u{0662}:x",
        ] {
            assert!(
                RestUsername::parse(username.as_bytes()).is_none(),
                "{username}"
            );
        }
    }

    #[test]
    fn passwords_are_those_that_other_implementations_make() {
        // by Python: base64.b64encode(hmac.new(secret, username, hashlib.sha1).digest())
        let long: &[u8] =
            b"a much longer secret than the block of SHA-1, which is of sixty-four bytes";
        for (secret, username, expected) in [
            (
                b"north".as_slice(),
                b"1433895918:ninefingers".as_slice(),
                "jy8hTxmOO7UtEKXqSkSlvakPVYA=",
            ),
            (long, USERNAME, "o30ddbgBE240dQCagskzerYn2Hg="),
        ] {
            let secrets = Secrets::new(vec![secret.to_vec(), b"an older one".to_vec()]);
            assert_eq!(secrets.password(username).as_str(), expected);
        }
        assert_eq!(Secrets::new(Vec::new()).password(USERNAME).as_str(), "");
    }

    #[test]
    fn a_password_of_any_of_the_secrets_is_right() {
        let secrets = secrets(&["new", "old", "oldest"]);
        for secret in ["new", "old", "oldest"] {
            for (algorithm, kind) in [
                (PasswordAlgorithm::Md5, IntegrityKind::Sha1),
                (PasswordAlgorithm::Sha256, IntegrityKind::Sha256),
                (PasswordAlgorithm::Md5, IntegrityKind::Sha256),
            ] {
                let key = key_of(secret, algorithm, USERNAME, REALM);
                let request = request(kind, &key);
                let message = Message::parse(&request).unwrap();
                let found = secrets.authenticate(&message, algorithm, USERNAME, REALM);
                assert!(found == Some(key), "{secret}, {algorithm:?}, {kind:?}");
            }
        }
    }

    #[test]
    fn anything_else_is_wrong() {
        let md5 = PasswordAlgorithm::Md5;
        let right = key_of("new", md5, USERNAME, REALM);
        let signed = request(IntegrityKind::Sha1, &right);
        let message = Message::parse(&signed).unwrap();
        let check = |secrets: &[&str], algorithm, username: &[u8], realm: &[u8]| {
            self::secrets(secrets)
                .authenticate(&message, algorithm, username, realm)
                .is_some()
        };
        assert!(check(&["new"], md5, USERNAME, REALM));
        assert!(!check(&["old", "older"], md5, USERNAME, REALM));
        assert!(!check(&[], md5, USERNAME, REALM));
        assert!(!check(&["new"], PasswordAlgorithm::Sha256, USERNAME, REALM));
        assert!(!check(
            &["new"],
            md5,
            b"1700000001:@alice:example.org",
            REALM
        ));
        assert!(!check(&["new"], md5, USERNAME, b"turn.example.com"));
    }

    #[test]
    fn nobody_is_authentic_without_integrity() {
        let mut unsigned = Vec::new();
        MessageWriter::new(
            &mut unsigned,
            Class::Request,
            Method::Allocate,
            TransactionId([1; 12]),
        )
        .attribute(AttributeType::USERNAME, USERNAME);
        let message = Message::parse(&unsigned).unwrap();
        let found =
            secrets(&["new"]).authenticate(&message, PasswordAlgorithm::Md5, USERNAME, REALM);
        assert!(found.is_none());
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(format!("{:?}", secrets(&["new", "old"])), "2 secrets");
    }

    proptest! {
        #[test]
        fn a_username_that_was_made_is_read(expiry in any::<u64>(), user in "[ -~]{1,40}") {
            let username = format!("{expiry}:{user}");
            let parsed = RestUsername::parse(username.as_bytes()).unwrap();
            prop_assert_eq!((parsed.expiry, parsed.user), (expiry, user.as_bytes()));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(username in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(parsed) = RestUsername::parse(&username) {
                prop_assert!(username[0].is_ascii_digit());
                prop_assert!(!parsed.user.is_empty() && username.ends_with(parsed.user));
            }
        }
    }

    fn secrets(secrets: &[&str]) -> Secrets {
        Secrets::new(
            secrets
                .iter()
                .map(|secret| secret.as_bytes().to_vec())
                .collect(),
        )
    }

    fn key_of(secret: &str, algorithm: PasswordAlgorithm, username: &[u8], realm: &[u8]) -> Key {
        let password = secrets(&[secret]).password(username);
        Key::new(algorithm, username, realm, password.as_bytes())
    }

    fn request(kind: IntegrityKind, key: &Key) -> Vec<u8> {
        let mut bytes = Vec::new();
        MessageWriter::new(
            &mut bytes,
            Class::Request,
            Method::Allocate,
            TransactionId([1; 12]),
        )
        .attribute(AttributeType::USERNAME, USERNAME)
        .integrity(kind, key);
        bytes
    }
}
