//! The provider token: how the gateway proves to Apple who it is.
//!
//! One ES256 JWT serves every connection of an app. Source: *Establishing a token-based connection to
//! APNs* (Apple Developer Documentation): renewed "no more than once every 20 minutes and no less than
//! once every 60 minutes".

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use http::HeaderValue;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use shared::secret::Secret;

/// After how long a token is replaced, so that it never comes near Apple's hour.
const RENEW_AFTER: Duration = Duration::from_mins(45);

/// How long a token is kept in any case: Apple answers `TooManyProviderTokenUpdates` otherwise.
const KEEP_FOR: Duration = Duration::from_mins(20);

/// How long Apple accepts a token.
const LIFETIME_SECONDS: u64 = 60 * 60;

/// The provider token of one app, replaced in time.
///
/// Reading it is one atomic load. When it is due, the first request to notice signs the next one (some
/// tens of microseconds) and all others go on with the old one, which is good for another quarter of an
/// hour.
pub(super) struct ProviderToken {
    key: EncodingKey,
    header: Header,
    team_id: String,
    /// Tells two keys apart without keeping them: a keyless hash of key, key ID and team ID.
    fingerprint: [u8; 32],
    current: ArcSwapOption<Token>,
    /// Held while signing.
    signing: Mutex<()>,
}

/// One signed token.
pub(super) struct Token {
    /// The value of `authorization`, marked sensitive.
    pub(super) authorization: HeaderValue,
    signed_at: Instant,
    /// The claim `iat`, in seconds since 1970.
    issued_at: u64,
}

/// The provider token cannot be signed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SigningFailed;

#[derive(Serialize)]
struct Claims<'claims> {
    iss: &'claims str,
    iat: u64,
}

impl ProviderToken {
    /// Takes the PEM text of a `.p8` key; signs nothing yet, so that a start or a reload does not count
    /// towards Apple's limit.
    ///
    /// # Errors
    ///
    /// A text, when the key is not a P-256 key in PKCS#8.
    pub(super) fn new(
        key: &Secret<String>,
        key_id: &str,
        team_id: &str,
    ) -> Result<Self, &'static str> {
        let signing_key = EncodingKey::from_ec_pem(key.expose().as_bytes())
            .map_err(|_| "keyfile is not an EC key in PKCS#8 PEM")?;
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key_id.to_owned());
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [key.expose().as_str(), key_id, team_id] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(hash.finish().as_ref());
        let key = signing_key;
        Ok(Self {
            fingerprint,
            key,
            header,
            team_id: team_id.to_owned(),
            current: ArcSwapOption::empty(),
            signing: Mutex::new(()),
        })
    }

    /// Whether the other one signs the same tokens.
    pub(super) fn is_of_same_key(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// The token to send now.
    ///
    /// # Errors
    ///
    /// When the first token cannot be signed. Later ones that cannot leave the old one in use.
    pub(super) fn get(&self, now: Instant, unix_seconds: u64) -> Result<Arc<Token>, SigningFailed> {
        match self.current.load_full() {
            Some(token) if !token.is_due(now, unix_seconds) => Ok(token),
            Some(token) => match self.signing.try_lock() {
                Ok(guard) => Ok(self.replace_due(&guard, now, unix_seconds).unwrap_or(token)),
                Err(_) => Ok(token),
            },
            None => self.replace_due(&self.lock(), now, unix_seconds),
        }
    }

    /// Replaces a token that Apple called expired; says whether there is another one now.
    ///
    /// There is none within 20 minutes of the last: then the fault is not the token's age but a clock,
    /// and a new token would not mend that. Unless the clock was set right since: the token that was signed
    /// by the wrong one was never accepted, so that another is no change in Apple's eyes.
    pub(super) fn renew(&self, refused: &Arc<Token>, now: Instant, unix_seconds: u64) -> bool {
        let guard = self.lock();
        match self.current.load_full() {
            Some(token) if Arc::ptr_eq(&token, refused) => {
                (token.may_be_replaced(now) || token.was_signed_by_another_clock(now, unix_seconds))
                    && self.sign(&guard, now, unix_seconds).is_ok()
            }
            Some(_) | None => true,
        }
    }

    /// When the current token expires, in seconds since 1970.
    pub(super) fn expires_at(&self) -> Option<u64> {
        let token = self.current.load_full()?;
        Some(token.issued_at.saturating_add(LIFETIME_SECONDS))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again, now that nobody else signs, and signs if it is still to be done.
    fn replace_due(
        &self,
        guard: &MutexGuard<'_, ()>,
        now: Instant,
        unix_seconds: u64,
    ) -> Result<Arc<Token>, SigningFailed> {
        match self.current.load_full() {
            Some(token) if !token.is_due(now, unix_seconds) => Ok(token),
            Some(_) | None => self.sign(guard, now, unix_seconds),
        }
    }

    fn sign(
        &self,
        _guard: &MutexGuard<'_, ()>,
        now: Instant,
        unix_seconds: u64,
    ) -> Result<Arc<Token>, SigningFailed> {
        let claims = Claims {
            iss: &self.team_id,
            iat: unix_seconds,
        };
        let jwt =
            jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|_| SigningFailed)?;
        let mut authorization =
            HeaderValue::try_from(format!("bearer {jwt}")).map_err(|_| SigningFailed)?;
        authorization.set_sensitive(true);
        let token = Arc::new(Token {
            authorization,
            signed_at: now,
            issued_at: unix_seconds,
        });
        self.current.store(Some(Arc::clone(&token)));
        Ok(token)
    }
}

impl Token {
    /// Whether it is time for another one: by age, or because the wall clock was moved so that Apple
    /// would see this one as too old or as issued in the future.
    fn is_due(&self, now: Instant, unix_seconds: u64) -> bool {
        let by_wall_clock = match unix_seconds.checked_sub(self.issued_at) {
            Some(age) => age >= RENEW_AFTER.as_secs(),
            None => true,
        };
        self.may_be_replaced(now) && (self.age(now) >= RENEW_AFTER || by_wall_clock)
    }

    /// Whether the wall clock was set since by more than the minute that it may drift.
    fn was_signed_by_another_clock(&self, now: Instant, unix_seconds: u64) -> bool {
        let expected = self.issued_at.saturating_add(self.age(now).as_secs());
        expected.abs_diff(unix_seconds) > 60
    }

    fn may_be_replaced(&self, now: Instant) -> bool {
        self.age(now) >= KEEP_FOR
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.signed_at)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        time::{SystemTime, UNIX_EPOCH},
    };

    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    };
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::{Value, json};
    use shared::clock::Clock;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    struct Fixture {
        token: ProviderToken,
        clock: Clock,
        public_key: Vec<u8>,
    }

    impl Fixture {
        fn new() -> Self {
            let pair =
                rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key pair");
            let public_key =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der())
                    .expect("the same key pair")
                    .public_key()
                    .as_ref()
                    .to_vec();
            Self {
                token: ProviderToken::new(&Secret::new(pair.serialize_pem()), "KEY1234567", "TEAM")
                    .expect("a provider token"),
                clock: Clock::manual(unix(1_767_225_600)),
                public_key,
            }
        }

        fn get(&self) -> Arc<Token> {
            self.token
                .get(self.clock.now(), self.clock.unix_seconds())
                .expect("a token")
        }

        fn renew(&self, refused: &Arc<Token>) -> bool {
            self.token
                .renew(refused, self.clock.now(), self.clock.unix_seconds())
        }
    }

    fn unix(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn decoded(part: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(part).expect("base64url")
    }

    #[test]
    fn the_token_is_a_jwt_as_apple_describes_it() {
        let fixture = Fixture::new();
        let token = fixture.get();
        let text = token.authorization.to_str().expect("ASCII");
        let jwt = text.strip_prefix("bearer ").expect("a bearer token");
        let [header, claims, signature] = jwt
            .split('.')
            .collect::<Vec<_>>()
            .try_into()
            .expect("three parts");

        let header: Value = serde_json::from_slice(&decoded(header)).expect("JSON");
        assert_eq!(header["alg"], "ES256");
        assert_eq!(header["kid"], "KEY1234567");
        let claims: Value = serde_json::from_slice(&decoded(claims)).expect("JSON");
        assert_eq!(claims, json!({"iss": "TEAM", "iat": 1_767_225_600}));
        let signed = jwt.rsplit_once('.').expect("a signature").0;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &fixture.public_key)
            .verify(signed.as_bytes(), &decoded(signature))
            .expect("a signature of the key");
    }

    #[test]
    fn the_token_is_never_printed() {
        let token = Fixture::new().get();
        assert!(token.authorization.is_sensitive());
        assert_eq!(format!("{:?}", token.authorization), "Sensitive");
    }

    #[test]
    fn one_token_is_used_for_45_minutes() {
        let fixture = Fixture::new();
        let first = fixture.get();
        fixture
            .clock
            .advance((45 * MINUTE).saturating_sub(Duration::from_secs(1)));
        assert!(Arc::ptr_eq(&first, &fixture.get()));
        fixture.clock.advance(Duration::from_secs(1));
        let second = fixture.get();
        assert!(!Arc::ptr_eq(&first, &second));
        assert_ne!(first.authorization, second.authorization);
        assert!(Arc::ptr_eq(&second, &fixture.get()));
    }

    #[test]
    fn nobody_waits_for_the_next_token() {
        let fixture = Fixture::new();
        let first = fixture.get();
        fixture.clock.advance(45 * MINUTE);
        let _somebody_signs = fixture.token.lock();
        assert!(Arc::ptr_eq(&first, &fixture.get()));
    }

    #[test]
    fn a_token_of_a_clock_that_was_wrong_is_renewed_at_once() {
        let fixture = Fixture::new();
        let first = fixture.get();
        fixture.clock.advance(MINUTE);
        fixture.clock.set_wall(unix(1_767_225_600 + 3 * 60 * 60));
        assert!(fixture.renew(&first));
        let second = fixture.get();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(!fixture.renew(&second), "and then no more");
    }

    #[test]
    fn a_token_that_apple_calls_expired_is_renewed_after_20_minutes_only() {
        let fixture = Fixture::new();
        let first = fixture.get();
        fixture
            .clock
            .advance((20 * MINUTE).saturating_sub(Duration::from_secs(1)));
        assert!(!fixture.renew(&first));
        assert!(Arc::ptr_eq(&first, &fixture.get()));

        fixture.clock.advance(Duration::from_secs(1));
        assert!(fixture.renew(&first));
        let second = fixture.get();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(!fixture.renew(&second));
    }

    #[test]
    fn many_who_meet_the_same_expired_token_renew_it_once() {
        let fixture = Fixture::new();
        let first = fixture.get();
        fixture.clock.advance(20 * MINUTE);
        let seen: HashSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        assert!(fixture.renew(&first));
                        fixture.get().authorization.as_bytes().to_vec()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn many_who_come_first_sign_once() {
        let fixture = Fixture::new();
        let seen: HashSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| fixture.get().authorization.as_bytes().to_vec()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn a_wall_clock_set_back_brings_a_new_token_as_soon_as_apple_allows() {
        let fixture = Fixture::new();
        let first = fixture.get();
        fixture.clock.set_wall(unix(1_767_225_600 - 3 * 60 * 60));
        assert!(Arc::ptr_eq(&first, &fixture.get()));
        fixture.clock.advance(20 * MINUTE);
        let second = fixture.get();
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(second.issued_at, fixture.clock.unix_seconds());
        assert!(Arc::ptr_eq(&second, &fixture.get()));
    }

    #[test]
    fn a_wall_clock_set_forward_brings_a_new_token_as_soon_as_apple_allows() {
        let fixture = Fixture::new();
        let first = fixture.get();
        fixture.clock.set_wall(unix(1_767_225_600 + 3 * 60 * 60));
        assert!(Arc::ptr_eq(&first, &fixture.get()));
        fixture.clock.advance(20 * MINUTE);
        assert!(!Arc::ptr_eq(&first, &fixture.get()));
    }

    #[test]
    fn the_expiry_is_an_hour_after_issue() {
        let fixture = Fixture::new();
        assert_eq!(fixture.token.expires_at(), None);
        fixture.get();
        assert_eq!(fixture.token.expires_at(), Some(1_767_225_600 + 3600));
    }

    #[test]
    fn another_kind_of_key_is_refused() {
        for pem in [
            "",
            "nonsense",
            "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(ProviderToken::new(&Secret::new(pem.to_owned()), "K", "T").is_err());
        }
    }
}
