//! A browser's push service (RFC 8030, RFC 8291, RFC 8292), and a UnifiedPush server beside it.
//!
//! Unlike the real ones this server holds its subscribers' private keys, too: it stands for the
//! browsers as well, and so it shows what a browser would read.

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use http::Method;

use crate::{
    Authority,
    device_keys::DeviceKeys,
    jwt::Jwt,
    reply::Reply,
    server::{Arrived, Push, Rules, Server, Verdict},
    support::{from_base64url, lock, random_name, wall},
    unix_seconds,
};

/// RFC 8030 §7.2: at least this has to be taken, and no service takes more.
const MOST_BODY: usize = 4096;
/// RFC 8030 §5.4.
const MOST_TOPIC: usize = 32;
/// RFC 8292 §2: `exp` must not be more than 24 hours from the time of the request.
const DAY: u64 = 24 * 60 * 60;
const URGENCIES: [&str; 4] = ["very-low", "low", "normal", "high"];
/// How long this server keeps a message at most, whatever the sender asks for.
const MOST_TTL: u64 = 30 * DAY;

/// A stand-in for Mozilla's and other browsers' push services and for a UnifiedPush server.
#[derive(Debug)]
pub struct PushService {
    server: Server,
    rules: Arc<PushRules>,
}

/// A browser's or a UnifiedPush distributor's subscription.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Where pushes for it are posted.
    pub endpoint: String,
    /// Its public key, as it is registered.
    pub p256dh: String,
    /// Its authentication secret, as it is registered.
    pub auth: String,
    path: String,
    keys: Arc<DeviceKeys>,
}

#[derive(Debug)]
struct PushRules {
    origin: String,
    subscriptions: RwLock<HashMap<String, Subscribed>>,
    /// VAPID tokens whose signature was found good, for quiet mode.
    passed: Mutex<HashSet<Vec<u8>>>,
}

#[derive(Clone, Debug)]
struct Subscribed {
    kind: Kind,
    keys: Arc<DeviceKeys>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Encryption and VAPID are demanded; with a key: VAPID by this key (RFC 8292 §4).
    Browser(Option<Vec<u8>>),
    UnifiedPush,
    Gone,
}

impl PushService {
    /// Starts it without any subscription.
    pub async fn start(authority: &Authority) -> io::Result<Self> {
        let tls = authority.server_config(
            &["updates.push.services.mozilla.com", "up.example.org"],
            &[b"h2", b"http/1.1"],
        )?;
        let mut rules = None;
        let server = Server::start(tls, |address| {
            let made = Arc::new(PushRules {
                origin: format!("https://{address}"),
                subscriptions: RwLock::default(),
                passed: Mutex::default(),
            });
            rules = Some(Arc::clone(&made));
            Box::new(made)
        })
        .await?;
        Ok(Self {
            server,
            rules: rules.ok_or_else(|| io::Error::other("the server was not started"))?,
        })
    }

    /// A new browser subscription: pushes have to be encrypted and signed for.
    pub fn subscribe(&self) -> io::Result<Subscription> {
        self.add("/push/", Kind::Browser(None))
    }

    /// A new browser subscription that only the holder of a VAPID key may push to; `public` as in
    /// [`VapidKey::public`](crate::VapidKey::public).
    pub fn subscribe_for(&self, public: &str) -> io::Result<Subscription> {
        let key =
            from_base64url(public).ok_or_else(|| io::Error::other("the key is not base64url"))?;
        self.add("/push/", Kind::Browser(Some(key)))
    }

    /// A new UnifiedPush endpoint: takes any body, and opens those that are encrypted to its keys.
    pub fn subscribe_unified_push(&self) -> io::Result<Subscription> {
        self.add("/up/", Kind::UnifiedPush)
    }

    /// Ends a subscription: it is answered 410 from now on.
    pub fn unsubscribe(&self, subscription: &Subscription) {
        if let Some(known) = self.rules.subscriptions_mut().get_mut(&subscription.path) {
            known.kind = Kind::Gone;
        }
    }

    fn add(&self, prefix: &str, kind: Kind) -> io::Result<Subscription> {
        let keys = Arc::new(DeviceKeys::generate()?);
        let path = format!("{prefix}{}", random_name());
        let subscribed = Subscribed {
            kind,
            keys: Arc::clone(&keys),
        };
        self.rules
            .subscriptions_mut()
            .insert(path.clone(), subscribed);
        Ok(Subscription {
            endpoint: format!("{}{path}", self.rules.origin),
            p256dh: keys.p256dh(),
            auth: keys.auth(),
            path,
            keys,
        })
    }
}

impl Subscription {
    /// The subscription's own keys.
    #[must_use]
    pub fn keys(&self) -> &DeviceKeys {
        &self.keys
    }
}

impl Deref for PushService {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// A status and what is wrong.
type Refusal = (u16, &'static str);

impl Rules for Arc<PushRules> {
    fn judge(&self, request: &Arrived) -> Verdict {
        let device = format!("{}{}", self.origin, request.path);
        let subscribed = self
            .subscriptions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&request.path)
            .cloned();
        let refuse = |(code, complaint): Refusal| {
            Verdict::refused(Reply::text(code, complaint), device.clone(), complaint)
        };
        let Some(subscribed) = subscribed else {
            return refuse((404, "no such subscription"));
        };
        if request.method == Method::GET && matches!(subscribed.kind, Kind::UnifiedPush) {
            // by which applications recognise a UnifiedPush endpoint
            let discovery = serde_json::json!({ "unifiedpush": { "version": 1 } });
            return Verdict::aside(Reply::json(200, &discovery));
        }
        if request.method != Method::POST {
            return refuse((405, "method is not POST"));
        }
        let demanded = match &subscribed.kind {
            Kind::Gone => return refuse((410, "the subscription has ended")),
            Kind::Browser(key) => self.check_browser_push(request, key.as_deref()),
            Kind::UnifiedPush => check_size(request),
        };
        if let Err(refusal) = demanded {
            return refuse(refusal);
        }
        let ttl = header(request, "ttl").and_then(|ttl| ttl.parse().ok());
        let reply = Reply::status(201)
            .header(
                "location",
                &format!("{}/message/{}", self.origin, random_name()),
            )
            .header("ttl", &ttl.unwrap_or(0).min(MOST_TTL).to_string());
        let mut push = Push {
            device,
            ..Push::default()
        };
        if !request.quiet && header(request, "content-encoding") == Some("aes128gcm") {
            match subscribed.keys.open(&request.body) {
                Ok(plain) => push.decrypted = Some(plain),
                // the service cannot know, the browser would drop it
                Err(error) => push.complaint = Some(error.to_string()),
            }
        }
        Verdict {
            reply,
            push: Some(push),
        }
    }
}

impl PushRules {
    fn check_browser_push(&self, request: &Arrived, key: Option<&[u8]>) -> Result<(), Refusal> {
        match header(request, "ttl") {
            None => return Err((400, "no TTL")),
            Some(ttl) if ttl.parse::<u64>().is_err() => return Err((400, "TTL is not a number")),
            Some(_) => {}
        }
        check_size(request)?;
        if !request.body.is_empty() && header(request, "content-encoding") != Some("aes128gcm") {
            return Err((400, "Content-Encoding is not aes128gcm"));
        }
        if header(request, "urgency").is_some_and(|urgency| !URGENCIES.contains(&urgency)) {
            return Err((400, "no such Urgency"));
        }
        if header(request, "topic").is_some_and(|topic| !is_topic(topic)) {
            return Err((400, "malformed Topic"));
        }
        self.check_vapid(request, key)
    }

    /// RFC 8292 §4.2: 403 for a token that is not valid; 401 where there is none.
    fn check_vapid(&self, request: &Arrived, demanded: Option<&[u8]>) -> Result<(), Refusal> {
        let authorization = request
            .headers
            .get("authorization")
            .ok_or((401, "no VAPID authorization"))?;
        if request.quiet && lock(&self.passed).contains(authorization.as_bytes()) {
            return Ok(());
        }
        let parameters = authorization
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("vapid"))
            .ok_or((401, "the authorization scheme is not vapid"))?
            .1;
        let parameter = |name: &str| {
            parameters
                .split(',')
                .filter_map(|pair| pair.trim().split_once('='))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().trim_matches('"'))
        };
        let token = parameter("t").ok_or((403, "VAPID: no t"))?;
        let key = parameter("k")
            .filter(|key| !key.contains('='))
            .and_then(from_base64url)
            .ok_or((403, "VAPID: no k, or not base64url without padding"))?;
        let jwt = Jwt::parse(token).ok_or((403, "VAPID: t is not a JWT"))?;
        if !jwt.is_signed_by_p256(&key) {
            return Err((403, "VAPID: t is not signed by k"));
        }
        if demanded.is_some_and(|demanded| demanded != key) {
            return Err((403, "VAPID: the subscription is another key's"));
        }
        if jwt.claim("aud") != Some(&self.origin) {
            return Err((403, "VAPID: aud is not this server's origin"));
        }
        let seconds = unix_seconds(wall());
        let expires = jwt.seconds("exp").ok_or((403, "VAPID: no exp"))?;
        if expires <= seconds {
            return Err((403, "VAPID: exp is over"));
        }
        if expires > seconds + DAY {
            return Err((403, "VAPID: exp is more than 24 hours away"));
        }
        let contact = jwt.claim("sub");
        if contact.is_some_and(|sub| !sub.starts_with("mailto:") && !sub.starts_with("https:")) {
            return Err((403, "VAPID: sub is neither mailto: nor https:"));
        }
        if request.quiet {
            lock(&self.passed).insert(authorization.as_bytes().to_vec());
        }
        Ok(())
    }

    fn subscriptions_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Subscribed>> {
        self.subscriptions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_size(request: &Arrived) -> Result<(), Refusal> {
    if request.body.len() > MOST_BODY {
        return Err((413, "more than 4096 bytes"));
    }
    Ok(())
}

/// RFC 8030 §5.4: no more than 32 characters of the URL-safe base64 alphabet.
fn is_topic(topic: &str) -> bool {
    (1..=MOST_TOPIC).contains(&topic.len())
        && topic
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn header<'a>(request: &'a Arrived, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}
