//! The long-term credential mechanism, RFC 8489 §9.2.4, with usernames that name their own end.

use super::{
    Server,
    allocation::Reply,
    reply::{Challenge, PASSWORD_ALGORITHMS, Request},
};
use crate::{
    commons::Random,
    counters::AuthFailure,
    credential::RestUsername,
    effect::Effects,
    quota::UserId,
    stun::{
        AttributeType, Message,
        integrity::{Key, PasswordAlgorithm},
    },
    time::Now,
};

/// What every nonce begins with that tells of password algorithms, RFC 8489 §9.2: the cookie and our features.
const NONCE_COOKIE: &[u8] = b"obMatJos2";

/// Somebody who has credentials.
pub(super) struct Authentic {
    pub(super) reply: Reply,
    pub(super) key: Key,
    /// The hash of the whole username.
    pub(super) username: UserId,
    /// The hash of the part that names somebody.
    pub(super) user: UserId,
    /// When the username ends, in seconds since 1970.
    pub(super) expiry: u64,
}

impl<R: Random> Server<R> {
    /// Who sent a request; `None` if it was refused, and answered.
    pub(super) fn authenticate(
        &self,
        request: &Request<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Option<Authentic> {
        let message = request.message;
        let refused = |failure, code, challenge, effects: &mut Effects| {
            self.counters.auth_failures.add(failure, 1);
            self.refuse(request, code, challenge, now, effects);
        };
        let Some(integrity) = message.integrity() else {
            refused(AuthFailure::Challenged, 401, Challenge::Yes, effects);
            return None;
        };
        let value = |attribute| message.value(attribute);
        let has_name = message.has(AttributeType::USERNAME) || message.has(AttributeType::USERHASH);
        let (true, Some(_), Some(nonce)) = (
            has_name,
            value(AttributeType::REALM),
            value(AttributeType::NONCE),
        ) else {
            refused(AuthFailure::Malformed, 400, Challenge::No, effects);
            return None;
        };
        let Some(algorithm) = password_algorithm(message, nonce) else {
            refused(AuthFailure::Malformed, 400, Challenge::No, effects);
            return None;
        };
        // A USERHASH cannot be turned into the name that a password is made of; the nonce says that it is not
        // understood here (RFC 8489 §9.2.1).
        let parsed = value(AttributeType::USERNAME)
            .and_then(|username| Some((username, RestUsername::parse(username)?)));
        let Some((username, parts)) = parsed else {
            refused(AuthFailure::BadUsername, 401, Challenge::Yes, effects);
            return None;
        };
        let hash = self.commons.ledger.identify(username);
        let realm = self.config.realm.as_bytes();
        let known = self
            .allocation_of(request.client)
            .filter(|allocation| {
                allocation.username == hash && allocation.key.algorithm() == algorithm
            })
            .map(|allocation| &allocation.key)
            .filter(|key| message.is_authentic(key))
            .cloned();
        let key = known.or_else(|| {
            self.config
                .secrets
                .authenticate(message, algorithm, username, realm)
        });
        let Some(key) = key else {
            refused(AuthFailure::BadPassword, 401, Challenge::Yes, effects);
            return None;
        };
        let reply = Reply {
            transaction_id: message.transaction_id(),
            integrity,
            fingerprint: message.has(AttributeType::FINGERPRINT),
        };
        let client = request.client;
        if !self.commons.nonces.is_valid(nonce, client.client, now.time) {
            self.counters.auth_failures.add(AuthFailure::StaleNonce, 1);
            self.refuse_stale(request, reply, &key, now, effects);
            return None;
        }
        Some(Authentic {
            reply,
            key,
            username: hash,
            user: self.commons.ledger.identify(parts.user),
            expiry: parts.expiry,
        })
    }
}

/// Which algorithm the key was made with; `None` if the attributes about it contradict each other or what was
/// offered: somebody on the path may want a weaker one (RFC 8489 §9.2.4).
fn password_algorithm(message: &Message<'_>, nonce: &[u8]) -> Option<PasswordAlgorithm> {
    let offered = message.value(AttributeType::PASSWORD_ALGORITHMS);
    let chosen = message.value(AttributeType::PASSWORD_ALGORITHM);
    match (offered, chosen) {
        (None, None) => Some(PasswordAlgorithm::Md5),
        // a nonce without the cookie is not ours and will be told so; until then the attributes have no meaning
        _ if !nonce.starts_with(NONCE_COOKIE) => Some(PasswordAlgorithm::Md5),
        (Some(offered), Some(chosen)) if offered == PASSWORD_ALGORITHMS => match chosen {
            [0, 1, 0, 0] => Some(PasswordAlgorithm::Md5),
            [0, 2, 0, 0] => Some(PasswordAlgorithm::Sha256),
            _ => None,
        },
        (Some(_) | None, Some(_) | None) => None,
    }
}
