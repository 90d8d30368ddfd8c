//! How the gateway tells a push service who it is: Voluntary Application Server Identification (RFC 8292).
//!
//! A token is good for every push to the push service that it names, so one is signed per push service
//! and kept until shortly before it expires.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    digest::{SHA256, digest},
    error::Unspecified,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde_json::json;
use shared::secret::Secret;

use crate::provider::endpoint::OriginKey;

/// RFC 8292 §2 allows 24 hours.
const LIFETIME: u64 = 12 * 60 * 60;
/// A token with less than this left is replaced: a push service's clock may be ahead.
const RENEWED_BEFORE: u64 = 60 * 60;
/// Tokens are held for at most twice as many push services.
const GENERATION: usize = 512;

/// One app's key and the tokens that are in use.
pub(super) struct Vapid {
    key: EcdsaKeyPair,
    /// The `k` parameter: the public key in base64url.
    public: String,
    subject: String,
    tokens: Mutex<Tokens>,
}

/// Tokens by push service, in two generations: a full one becomes the older one, and what is not used
/// before that happens again is forgotten.
#[derive(Default)]
struct Tokens {
    recent: HashMap<OriginKey, Token>,
    older: HashMap<OriginKey, Token>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    expires_at: u64,
}

impl Vapid {
    /// Takes the key in; `subject` is a `mailto:` or `https:` URI (RFC 8292 §2.1).
    pub(super) fn new(key: &Secret<[u8; 32]>, subject: &str) -> Result<Self, String> {
        let invalid = |_| "vapid_private_key: not a private key of P-256".to_owned();
        let public = PrivateKey::from_private_key(&ECDH_P256, key.expose())
            .map_err(|_| Unspecified)
            .and_then(|key| key.compute_public_key())
            .map_err(invalid)?;
        let key = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            key.expose(),
            public.as_ref(),
        )
        .map_err(|_| Unspecified)
        .map_err(invalid)?;
        Ok(Self {
            key,
            public: URL_SAFE_NO_PAD.encode(public),
            subject: subject.to_owned(),
            tokens: Mutex::default(),
        })
    }

    /// The `Authorization` header for a push to `origin`, at `now` in seconds since 1970.
    pub(super) fn authorization(
        &self,
        origin: &OriginKey,
        now: u64,
    ) -> Result<HeaderValue, Unspecified> {
        if let Some(header) = self.tokens().get(origin, now) {
            return Ok(header);
        }
        let expires_at = now.saturating_add(LIFETIME);
        let token = self.sign(origin.as_str(), expires_at)?;
        let mut header = HeaderValue::try_from(format!("vapid t={token}, k={}", self.public))
            .map_err(|_| Unspecified)?;
        header.set_sensitive(true);
        let token = Token {
            header: header.clone(),
            expires_at,
        };
        let mut tokens = self.tokens();
        // Somebody may have signed one meanwhile: all use the same, so that it tells nobody apart.
        if let Some(header) = tokens.get(origin, now) {
            return Ok(header);
        }
        tokens.insert(origin.clone(), token);
        Ok(header)
    }

    /// A JSON Web Token with `ES256` (RFC 7515 §3, RFC 7518 §3.4).
    fn sign(&self, audience: &str, expires_at: u64) -> Result<String, Unspecified> {
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ES256"}"#);
        let claims = json!({"aud": audience, "exp": expires_at, "sub": self.subject});
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        let message = format!("{header}.{claims}");
        let signature = self.key.sign_digest(&digest(&SHA256, message.as_bytes()))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tokens {
    fn get(&mut self, origin: &OriginKey, now: u64) -> Option<HeaderValue> {
        if let Some(token) = self.recent.get(origin) {
            return token.is_good(now).then(|| token.header.clone());
        }
        let (origin, token) = self.older.remove_entry(origin)?;
        let header = token.is_good(now).then(|| token.header.clone())?;
        self.insert(origin, token);
        Some(header)
    }

    fn insert(&mut self, origin: OriginKey, token: Token) {
        if self.recent.len() >= GENERATION && !self.recent.contains_key(&origin) {
            self.older = mem::take(&mut self.recent);
        }
        self.recent.insert(origin, token);
    }
}

impl Token {
    /// Whether push services take it: it neither expires soon nor, since the clock was set back, too late.
    fn is_good(&self, now: u64) -> bool {
        (RENEWED_BEFORE..=LIFETIME).contains(&self.expires_at.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;
    use crate::provider::endpoint::Endpoint;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn the_token_is_signed_for_the_push_service_alone() {
        let vapid = vapid();
        for (endpoint, audience) in [
            ("https://push.example/secret?x", "https://push.example"),
            ("https://push.example:443/secret", "https://push.example"),
            (
                "https://push.example:8443/secret",
                "https://push.example:8443",
            ),
            (
                "https://[2606:4700::1]:8443/secret",
                "https://[2606:4700::1]:8443",
            ),
        ] {
            let header = vapid.authorization(&origin(endpoint), NOW).unwrap();
            assert!(header.is_sensitive());
            let header = header.to_str().unwrap();
            let (token, key) = header
                .strip_prefix("vapid t=")
                .unwrap()
                .split_once(", k=")
                .unwrap();
            let key = URL_SAFE_NO_PAD.decode(key).unwrap();
            assert_eq!(key.len(), 65);

            let (message, signature) = token.rsplit_once('.').unwrap();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
                .verify(
                    message.as_bytes(),
                    &URL_SAFE_NO_PAD.decode(signature).unwrap(),
                )
                .unwrap();
            let (head, claims) = message.split_once('.').unwrap();
            assert_eq!(decode(head), json!({"typ": "JWT", "alg": "ES256"}));
            let claims = decode(claims);
            assert_eq!(claims["aud"], audience);
            assert_eq!(claims["exp"], NOW + LIFETIME);
            assert_eq!(claims["sub"], "mailto:push@example.org");
        }
    }

    #[test]
    fn a_token_is_used_again_until_an_hour_before_it_expires() {
        let vapid = vapid();
        let origin = origin("https://push.example/x");
        let first = vapid.authorization(&origin, NOW).unwrap();
        let almost = NOW + LIFETIME - RENEWED_BEFORE;
        assert_eq!(vapid.authorization(&origin, almost).unwrap(), first);
        let second = vapid.authorization(&origin, almost + 1).unwrap();
        assert_ne!(second, first);
        assert_eq!(vapid.authorization(&origin, almost + 2).unwrap(), second);
    }

    #[test]
    fn many_who_come_first_use_one_token() {
        let (vapid, origin) = (vapid(), origin("https://push.example.org/a"));
        let start = std::sync::Barrier::new(16);
        let seen: std::collections::HashSet<_> = std::thread::scope(|scope| {
            let one = || {
                start.wait();
                vapid
                    .authorization(&origin, 1_000)
                    .unwrap()
                    .as_bytes()
                    .to_vec()
            };
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(one)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_a_new_token() {
        let vapid = vapid();
        let origin = origin("https://push.example/x");
        let first = vapid.authorization(&origin, NOW).unwrap();
        assert_ne!(vapid.authorization(&origin, NOW - 1).unwrap(), first);
    }

    #[test]
    fn tokens_are_held_for_a_bounded_number_of_push_services() {
        let vapid = vapid();
        let busy = origin("https://busy.example/x");
        let first = vapid.authorization(&busy, NOW).unwrap();
        for number in 0..3 * GENERATION {
            let other = origin(&format!("https://{number}.example/x"));
            vapid.authorization(&other, NOW).unwrap();
            // one that is in use is not forgotten, however many others there are
            assert_eq!(vapid.authorization(&busy, NOW).unwrap(), first);
            let tokens = vapid.tokens();
            assert!(tokens.recent.len() <= GENERATION && tokens.older.len() <= GENERATION);
        }
    }

    #[test]
    fn what_is_no_private_key_is_refused() {
        for bytes in [[0; 32], [0xff; 32]] {
            assert!(Vapid::new(&Secret::new(bytes), "mailto:push@example.org").is_err());
        }
    }

    fn vapid() -> Vapid {
        Vapid::new(&Secret::new([7; 32]), "mailto:push@example.org").unwrap()
    }

    fn origin(endpoint: &str) -> OriginKey {
        Endpoint::parse(endpoint).unwrap().origin().clone()
    }

    fn decode(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }
}
