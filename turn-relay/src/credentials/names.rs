//! Usernames and passwords.
//!
//! A username is `<expiry>:<name>`, and travels in clear with every request to the relay that is not inside
//! TLS. So neither half says who it is:
//!
//! - The name is 22 characters, base64url of the first 16 bytes of HMAC-SHA256 with the key of the epoch. The
//!   key is **drawn at random and forgotten when the epoch is over**; it is not derived from the secret that
//!   signs passwords. The homeserver, an SFU and the backup of a configuration have that secret, and lists of
//!   user IDs are easily had: whoever had both could find the user behind every username that was ever recorded
//!   on a wire. The price is small. Names change when the service is started anew; but a relay in the same
//!   process has forgotten its allocations by then, and with them who had how many. Several services for one
//!   relay give a user one name each, so that quotas count them apart.
//! - The expiry is rounded up, for everybody to the same few moments: to the second it would say when the
//!   credential was fetched, and clients fetch theirs at intervals of their own, by which the names of two
//!   epochs could be linked.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use shared::{epoch_key::EpochKey, random::Random};
use turn_relay_proto::credential::Secrets;
use zeroize::Zeroizing;

use super::{MAX_URIS, Settings};

/// Between two moments at which credentials end, at the most.
const COARSEST: Duration = Duration::from_hours(1);
/// The same as a part of the time that they are good for.
const PARTS: u32 = 12;

/// Whom a name is for.
#[derive(Clone, Copy)]
pub(super) enum Who<'a> {
    /// A user of the homeserver, by user ID.
    MatrixUser(&'a str),
    /// A user of a service that has an API key; two services' users of one name are two.
    UserOfService {
        /// What the key is known by here.
        key: &'a [u8; 32],
        /// As the service calls the user.
        user: &'a str,
    },
}

/// Keeps what is hashed for different purposes apart.
mod purpose {
    pub(super) const MATRIX_USER: &[u8] = &[1];
    pub(super) const USER_OF_SERVICE: &[u8] = &[2];
    pub(super) const OPERATORS_USER: &[u8] = b"nocturne credentials --user";
}

/// A username with its password, and what else a client is told.
pub struct Credential {
    username: String,
    password: Zeroizing<String>,
    ttl: u64,
    /// A JSON array.
    uris: Arc<str>,
}

/// Makes credentials of names.
pub(super) struct Issuer {
    secrets: Secrets,
    ttl: u64,
    uris: Arc<str>,
}

/// The name of `who` in the current epoch.
pub(super) fn of(who: Who<'_>, key: &EpochKey) -> String {
    key.with(|key| match who {
        Who::MatrixUser(user) => name(key, &[purpose::MATRIX_USER, user.as_bytes()]),
        Who::UserOfService { key: service, user } => {
            name(key, &[purpose::USER_OF_SERVICE, service, user.as_bytes()])
        }
    })
}

/// A name that nobody has had before.
pub(super) fn of_nobody(random: &Random) -> String {
    URL_SAFE_NO_PAD.encode(random.bytes::<16>())
}

/// The name of a user whom the operator named on the command line.
pub(super) fn of_an_operators_user(settings: &Settings, user: &str, unix_seconds: u64) -> String {
    let newest = settings.secrets.first();
    let secret = newest.map_or(&[][..], |secret| secret.expose().as_bytes());
    let epoch = unix_seconds / settings.pseudonym_epoch.as_secs().max(1);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    name(
        &key,
        &[
            purpose::OPERATORS_USER,
            &epoch.to_be_bytes(),
            user.as_bytes(),
        ],
    )
}

impl Issuer {
    pub(super) fn new(settings: &Settings) -> Self {
        let (tls, others): (Vec<_>, Vec<_>) = settings
            .uris
            .iter()
            .partition(|uri| uri.starts_with("turns:"));
        let uris: Vec<_> = tls
            .into_iter()
            .chain(others)
            .take(MAX_URIS)
            .map(String::as_str)
            .collect();
        Self {
            secrets: settings.signing(),
            ttl: settings.ttl.as_secs(),
            uris: serde_json::Value::from(uris).to_string().into(),
        }
    }

    /// A credential that is good for `ttl` from now on, and a little longer.
    pub(super) fn issue(&self, name: &str, unix_seconds: u64) -> Credential {
        let username = format!("{}:{name}", self.expiry(unix_seconds));
        Credential {
            password: self.secrets.password(username.as_bytes()),
            username,
            ttl: self.ttl,
            uris: Arc::clone(&self.uris),
        }
    }

    fn expiry(&self, unix_seconds: u64) -> u64 {
        let step = (self.ttl / u64::from(PARTS)).clamp(1, COARSEST.as_secs());
        let earliest = unix_seconds.saturating_add(self.ttl);
        earliest.checked_next_multiple_of(step).unwrap_or(earliest)
    }
}

impl Credential {
    /// The body of an answer: `username`, `password`, `ttl` in seconds, `uris`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self {
            username,
            password,
            ttl,
            uris,
        } = self;
        // A name is base64url and a password base64: there is nothing to escape.
        format!(
            r#"{{"username":"{username}","password":"{}","ttl":{ttl},"uris":{uris}}}"#,
            password.as_str()
        )
    }
}

fn name(key: &hmac::Key, parts: &[&[u8]]) -> String {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let tag = context.sign();
    let (name, _) = tag
        .as_ref()
        .split_first_chunk::<16>()
        .expect("HMAC-SHA256 gives 32 bytes");
    URL_SAFE_NO_PAD.encode(name)
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credential([hidden])")
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::Value;
    use shared::{clock::Clock, secret::Secret};

    use super::*;

    const HOUR: u64 = 3600;
    const NOW: u64 = 1_800_000_123;

    fn settings(ttl: u64) -> Settings {
        Settings {
            secrets: vec![Secret::new("north".to_owned())],
            ttl: Duration::from_secs(ttl),
            uris: vec!["turns:turn.example.org:443?transport=tcp".to_owned()],
            api_keys: Vec::new(),
            homeserver: None,
            homeserver_deadline: Duration::from_secs(10),
            allow_guests: false,
            trusted_proxies: Vec::new(),
            pseudonym_epoch: Duration::from_hours(24),
        }
    }

    fn epoch_key(seed: u64) -> EpochKey {
        let (clock, random) = (Clock::system(), Random::seeded(seed));
        EpochKey::new(Duration::from_hours(24), clock, random)
    }

    #[test]
    fn the_newest_secret_signs_the_whole_username() {
        let mut settings = settings(12 * HOUR);
        settings.secrets.push(Secret::new("south".to_owned()));
        let json = Issuer::new(&settings).issue("name", NOW).to_json();
        let body: Value = serde_json::from_str(&json).unwrap();
        let username = body["username"].as_str().unwrap();
        let key = hmac::Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"north");
        let password = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        assert_eq!(body["password"], password);
        assert_eq!(username, "1800046800:name");
    }

    #[test]
    fn the_expiry_is_rounded_up_by_a_twelfth_and_an_hour_at_the_most() {
        for (ttl, step) in [
            (60, 5),
            (600, 50),
            (HOUR, 300),
            (12 * HOUR, HOUR),
            (24 * HOUR, HOUR),
            (30 * 24 * HOUR, HOUR),
        ] {
            let issuer = Issuer::new(&settings(ttl));
            for now in [NOW, NOW + 1, NOW + 1799, NOW + step] {
                let expiry = issuer.expiry(now);
                assert!(expiry >= now + ttl, "{ttl}");
                assert!(expiry < now + ttl + step, "{ttl}");
                assert_eq!(expiry % step, 0, "{ttl}");
            }
        }
    }

    #[test]
    fn no_time_and_no_ttl_makes_it_panic() {
        for ttl in [0, 1, u64::MAX] {
            let issuer = Issuer::new(&settings(ttl));
            for now in [0, NOW, u64::MAX] {
                assert!(issuer.expiry(now) >= now);
            }
        }
    }

    #[test]
    fn names_are_kept_apart_by_key_by_purpose_and_by_part() {
        let (key, other_key) = (epoch_key(1), epoch_key(2));
        let user = |user| Who::MatrixUser(user);
        let of_service = |key, user| Who::UserOfService { key, user };
        let names = [
            of(user("@a:b"), &key),
            of(user("@a:b"), &other_key),
            of(user("@a:bc"), &key),
            of(of_service(&[0; 32], "@a:b"), &key),
            of(of_service(&[1; 32], "@a:b"), &key),
            of(of_service(&[1; 32], "@a:bc"), &key),
        ];
        for (index, name) in names.iter().enumerate() {
            assert_eq!(name.len(), 22);
            assert!(!names[index + 1..].contains(name), "{names:?}");
        }
        assert_eq!(of(user("@a:b"), &key), names[0]);
    }

    #[test]
    fn an_operators_user_has_one_name_in_an_epoch_by_the_newest_secret() {
        let mut settings = settings(12 * HOUR);
        let day = 24 * HOUR;
        let noon = NOW - NOW % day + 12 * HOUR;
        let first = of_an_operators_user(&settings, "alice", noon);
        assert_eq!(of_an_operators_user(&settings, "alice", noon + HOUR), first);
        assert_ne!(of_an_operators_user(&settings, "bob", noon), first);
        assert_ne!(of_an_operators_user(&settings, "alice", noon + day), first);
        settings.secrets.insert(0, Secret::new("south".to_owned()));
        assert_ne!(of_an_operators_user(&settings, "alice", noon), first);
    }

    #[test]
    fn nothing_of_a_credential_is_printed_by_accident() {
        let credential = Issuer::new(&settings(60)).issue("name", NOW);
        assert_eq!(format!("{credential:?}"), "Credential([hidden])");
    }
}
