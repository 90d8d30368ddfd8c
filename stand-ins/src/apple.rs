//! Apple's push service as its provider API is documented: HTTP/2 only, provider tokens or client
//! certificates, and an error with a reason for everything that is not in order.
//!
//! Documented in Apple's "Sending notification requests to APNs", "Establishing a token-based
//! connection to APNs" and "Handling error responses from APNs".

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Method};
use serde_json::Value;

use crate::{
    Authority, KEY_ID, TEAM_ID, TOPIC,
    jwt::Jwt,
    keys::ApnsKey,
    reply::Reply,
    server::{Arrived, Rules, Server, Verdict},
    support::{lock, now, random_uuid, wall},
    unix_seconds,
};

/// A provider token is good for an hour, and may be renewed every 20 minutes at most.
const TOKEN_LIFE: u64 = 60 * 60;
const TOKEN_UPDATES: Duration = Duration::from_mins(20);
/// How far a provider's clock may be ahead.
const CLOCK_SKEW: u64 = 60;
const MOST_PAYLOAD: usize = 4096;
const MOST_PAYLOAD_VOIP: usize = 5120;
const MOST_COLLAPSE_ID: usize = 64;
const PUSH_TYPES: [&str; 11] = [
    "alert",
    "background",
    "complication",
    "controls",
    "fileprovider",
    "liveactivity",
    "location",
    "mdm",
    "pushtotalk",
    "voip",
    "widgets",
];

/// A stand-in for `api.push.apple.com`.
#[derive(Debug)]
pub struct Apple {
    server: Server,
    rules: Arc<AppleRules>,
    key: ApnsKey,
}

#[derive(Debug, Default)]
struct AppleRules {
    keys: Mutex<HashMap<String, ApnsKey>>,
    topics: Mutex<HashSet<String>>,
    /// Authorization headers that have passed, with the key they are of.
    passed: RwLock<HashMap<Vec<u8>, Passed>>,
    limit_updates: AtomicBool,
}

#[derive(Debug)]
struct Passed {
    key_id: String,
    issued_at: u64,
    since: Instant,
    expired: bool,
}

impl Apple {
    /// Starts it with one key ([`KEY_ID`], [`TEAM_ID`]) and one app ([`TOPIC`]).
    pub async fn start(authority: &Authority) -> io::Result<Self> {
        let tls = authority.server_config(
            &[
                "api.push.apple.com",
                "api.sandbox.push.apple.com",
                "api.development.push.apple.com",
            ],
            &[b"h2"],
        )?;
        let rules = Arc::new(AppleRules::default());
        let key = ApnsKey::generate(KEY_ID, TEAM_ID)?;
        let server = Server::start(tls, |_| Box::new(Arc::clone(&rules))).await?;
        let apple = Self { server, rules, key };
        apple.register_key(&apple.key);
        apple.register_topic(TOPIC);
        Ok(apple)
    }

    /// The key that was registered at the start.
    #[must_use]
    pub fn key(&self) -> &ApnsKey {
        &self.key
    }

    /// Accepts tokens of a key; one with the same identifier is replaced.
    pub fn register_key(&self, key: &ApnsKey) {
        lock(&self.rules.keys).insert(key.key_id().to_owned(), key.clone());
        self.rules.forget_tokens_of(key.key_id());
    }

    /// Accepts a key's tokens no longer.
    pub fn revoke_key(&self, key_id: &str) {
        lock(&self.rules.keys).remove(key_id);
        self.rules.forget_tokens_of(key_id);
    }

    /// Accepts pushes for an app.
    pub fn register_topic(&self, topic: &str) {
        lock(&self.rules.topics).insert(topic.to_owned());
    }

    /// Treats the provider tokens seen so far as older than an hour.
    pub fn expire_tokens(&self) {
        for passed in self.rules.passed_mut().values_mut() {
            passed.expired = true;
        }
    }

    /// Whether a key's token may change only every 20 minutes, as Apple demands; off at the start.
    pub fn limit_token_updates(&self, limit: bool) {
        self.rules.limit_updates.store(limit, Ordering::Relaxed);
    }

    /// How many different valid provider tokens were used so far.
    #[must_use]
    pub fn provider_tokens(&self) -> usize {
        self.rules
            .passed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

impl Deref for Apple {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Rules for Arc<AppleRules> {
    fn judge(&self, request: &Arrived) -> Verdict {
        let device = request
            .path
            .strip_prefix("/3/device/")
            .unwrap_or_default()
            .to_owned();
        let mut verdict = match self.check(request, &device) {
            Ok(()) => Verdict::accepted(Reply::status(200), device),
            Err((code, reason)) => Verdict::refused(Reply::apns(code, reason), device, reason),
        };
        // Apple answers with the provider's identifier, or makes one up
        let made_up = || HeaderValue::try_from(random_uuid()).ok();
        if let Some(id) = request.headers.get("apns-id").cloned().or_else(made_up) {
            verdict.reply.headers.insert("apns-id", id);
        }
        verdict
    }
}

/// A status and Apple's word for what is wrong.
type Refusal = (u16, &'static str);

impl AppleRules {
    fn check(&self, request: &Arrived, device: &str) -> Result<(), Refusal> {
        if request.method != Method::POST {
            return Err((405, "MethodNotAllowed"));
        }
        if !request.path.starts_with("/3/device/") {
            return Err((404, "BadPath"));
        }
        if let Some(topic) = &request.client_topic {
            check_certificate_topic(request, topic)?;
        } else {
            self.check_token(request)?;
        }
        if request.quiet {
            return Ok(());
        }
        if request.client_topic.is_none() {
            self.check_topic(request)?;
        }
        check_device_token(device)?;
        check_headers(request)?;
        check_payload(request)
    }

    fn check_token(&self, request: &Arrived) -> Result<(), Refusal> {
        let Some(authorization) = request.headers.get("authorization") else {
            return Err((403, "MissingProviderToken"));
        };
        let seconds = unix_seconds(wall());
        {
            let passed = self.passed.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(passed) = passed.get(authorization.as_bytes()) {
                return if passed.expired || seconds > passed.issued_at + TOKEN_LIFE {
                    Err((403, "ExpiredProviderToken"))
                } else {
                    Ok(())
                };
            }
        }
        let token = authorization
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .ok_or((403, "MissingProviderToken"))?
            .1;
        let invalid = (403, "InvalidProviderToken");
        let jwt = Jwt::parse(token).ok_or(invalid)?;
        let key_id = jwt.header("kid").ok_or(invalid)?;
        {
            let keys = lock(&self.keys);
            let key = keys.get(key_id).ok_or(invalid)?;
            if jwt.claim("iss") != Some(key.team_id()) || !jwt.is_signed_by_p256(key.public()) {
                return Err(invalid);
            }
        }
        let issued_at = jwt.seconds("iat").ok_or(invalid)?;
        if issued_at > seconds + CLOCK_SKEW {
            return Err(invalid);
        }
        if seconds > issued_at + TOKEN_LIFE {
            return Err((403, "ExpiredProviderToken"));
        }
        let since = now();
        let mut passed = self.passed_mut();
        if self.limit_updates.load(Ordering::Relaxed)
            && passed.values().any(|earlier| {
                earlier.key_id == key_id && since.duration_since(earlier.since) < TOKEN_UPDATES
            })
        {
            return Err((429, "TooManyProviderTokenUpdates"));
        }
        passed.insert(
            authorization.as_bytes().to_vec(),
            Passed {
                key_id: key_id.to_owned(),
                issued_at,
                since,
                expired: false,
            },
        );
        Ok(())
    }

    fn check_topic(&self, request: &Arrived) -> Result<(), Refusal> {
        let topic = header(request, "apns-topic").ok_or((400, "MissingTopic"))?;
        let app = app_of(topic);
        if lock(&self.topics).contains(app) {
            Ok(())
        } else {
            Err((400, "BadTopic"))
        }
    }

    fn forget_tokens_of(&self, key_id: &str) {
        self.passed_mut()
            .retain(|_, passed| passed.key_id != key_id);
    }

    fn passed_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Vec<u8>, Passed>> {
        self.passed.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With a certificate the topic is the certificate's; a header may only repeat it.
fn check_certificate_topic(request: &Arrived, certified: &str) -> Result<(), Refusal> {
    match header(request, "apns-topic") {
        Some(topic) if app_of(topic) != certified => Err((400, "TopicDisallowed")),
        Some(_) | None => Ok(()),
    }
}

/// A token is hexadecimal; Apple asks not to rely on its length.
fn check_device_token(device: &str) -> Result<(), Refusal> {
    if device.is_empty() {
        return Err((400, "MissingDeviceToken"));
    }
    let hexadecimal = device.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hexadecimal && device.len().is_multiple_of(2) {
        Ok(())
    } else {
        Err((400, "BadDeviceToken"))
    }
}

fn check_headers(request: &Arrived) -> Result<(), Refusal> {
    for name in [
        "apns-id",
        "apns-topic",
        "apns-priority",
        "apns-push-type",
        "apns-expiration",
        "apns-collapse-id",
    ] {
        if request.headers.get_all(name).iter().count() > 1 {
            return Err((400, "DuplicateHeaders"));
        }
    }
    if header(request, "apns-id").is_some_and(|id| !is_uuid(id)) {
        return Err((400, "BadMessageId"));
    }
    let push_type = header(request, "apns-push-type");
    if push_type.is_some_and(|push_type| !PUSH_TYPES.contains(&push_type)) {
        return Err((400, "InvalidPushType"));
    }
    let priority = header(request, "apns-priority");
    if priority.is_some_and(|priority| !matches!(priority, "1" | "5" | "10")) {
        return Err((400, "BadPriority"));
    }
    // "Always use priority 5. Using priority 10 is an error." (of background notifications)
    if push_type == Some("background") && priority == Some("10") {
        return Err((400, "BadPriority"));
    }
    if header(request, "apns-expiration").is_some_and(|time| time.parse::<u32>().is_err()) {
        return Err((400, "BadExpirationDate"));
    }
    if header(request, "apns-collapse-id").is_some_and(|id| id.len() > MOST_COLLAPSE_ID) {
        return Err((400, "BadCollapseId"));
    }
    // "The apns-topic header field must use your app's bundle ID with .voip appended to the end."
    let topic = header(request, "apns-topic");
    if push_type == Some("voip") && topic.is_some_and(|topic| topic.strip_suffix(".voip").is_none())
    {
        return Err((400, "BadTopic"));
    }
    Ok(())
}

fn check_payload(request: &Arrived) -> Result<(), Refusal> {
    if request.body.is_empty() {
        return Err((400, "PayloadEmpty"));
    }
    let most = if header(request, "apns-push-type") == Some("voip") {
        MOST_PAYLOAD_VOIP
    } else {
        MOST_PAYLOAD
    };
    if request.body.len() > most {
        return Err((413, "PayloadTooLarge"));
    }
    match serde_json::from_slice(&request.body) {
        Ok(Value::Object(_)) => Ok(()),
        // Apple names no reason for this; the word is this stand-in's own
        Ok(_) | Err(_) => Err((400, "PayloadNotJson")),
    }
}

/// The app of a topic: what is left without the ending of a push type.
fn app_of(topic: &str) -> &str {
    [".voip", ".complication", ".pushkit.fileprovider"]
        .iter()
        .find_map(|ending| topic.strip_suffix(ending))
        .unwrap_or(topic)
}

fn header<'a>(request: &'a Arrived, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
