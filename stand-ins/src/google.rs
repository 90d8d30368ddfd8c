//! Google's push service (FCM HTTP v1) and the OAuth server that lets one in, as they are
//! documented: signed assertions for access tokens, and a check of every member of a message.
//!
//! Documented in Google's "Using OAuth 2.0 for Server to Server Applications", the reference of
//! `projects.messages` and "FCM error codes".

use std::{
    collections::{HashMap, VecDeque},
    io,
    ops::Deref,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Map, Value, json};

use crate::{
    Authority, PROJECT_ID,
    jwt::Jwt,
    keys::ServiceAccount,
    reply::Reply,
    server::{Arrived, Rules, Server, Verdict},
    support::{lock, now, random_name, wall},
    unix_seconds,
};

const TOKEN_PATH: &str = "/token";
/// What real account files name; accepted, too, for clients that come through a proxy.
const GOOGLES_TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// An assertion may ask for an hour at most, and an access token lives as long.
const HOUR: u64 = 60 * 60;
const CLOCK_SKEW: u64 = 60;
const MOST_DATA: usize = 4096;
/// 28 days.
const MOST_TTL: u64 = 2_419_200;
const TARGETS: [&str; 4] = ["token", "fid", "topic", "condition"];
const OTHER_MEMBERS: [&str; 7] = [
    "name",
    "data",
    "notification",
    "android",
    "webpush",
    "apns",
    "fcm_options",
];

/// A stand-in for `fcm.googleapis.com` and `oauth2.googleapis.com`, on one port.
#[derive(Debug)]
pub struct Google {
    server: Server,
    rules: Arc<GoogleRules>,
    account: ServiceAccount,
}

#[derive(Debug)]
struct GoogleRules {
    token_uri: String,
    accounts: Mutex<HashMap<String, ServiceAccount>>,
    /// `Authorization` values that are good, with the project and the time they are good for.
    tokens: RwLock<HashMap<Vec<u8>, (String, Instant)>>,
    token_lifetime_seconds: AtomicU64,
    token_fetches: AtomicUsize,
    token_replies: Mutex<VecDeque<Reply>>,
}

impl Google {
    /// Starts it with one account for [`PROJECT_ID`]. All that start in one process have the same
    /// account, since an RSA key takes its time to find.
    pub async fn start(authority: &Authority) -> io::Result<Self> {
        static ACCOUNT: OnceLock<ServiceAccount> = OnceLock::new();
        let account = if let Some(account) = ACCOUNT.get() {
            account.clone()
        } else {
            let account = ServiceAccount::generate(PROJECT_ID)?;
            ACCOUNT.get_or_init(|| account).clone()
        };
        let tls = authority.server_config(
            &["fcm.googleapis.com", "oauth2.googleapis.com"],
            &[b"h2", b"http/1.1"],
        )?;
        let mut rules = None;
        let server = Server::start(tls, |address| {
            let made = Arc::new(GoogleRules {
                token_uri: format!("https://{address}{TOKEN_PATH}"),
                accounts: Mutex::default(),
                tokens: RwLock::default(),
                token_lifetime_seconds: AtomicU64::new(HOUR - 1),
                token_fetches: AtomicUsize::new(0),
                token_replies: Mutex::default(),
            });
            rules = Some(Arc::clone(&made));
            Box::new(made)
        })
        .await?;
        let google = Self {
            server,
            rules: rules.ok_or_else(|| io::Error::other("the server was not started"))?,
            account,
        };
        google.register_account(&google.account);
        Ok(google)
    }

    /// The account that was registered at the start.
    #[must_use]
    pub fn service_account(&self) -> &ServiceAccount {
        &self.account
    }

    /// The account's file, with this server as `token_uri`.
    #[must_use]
    pub fn service_account_json(&self) -> String {
        self.account.json(&self.token_uri())
    }

    /// Accepts an account; one with the same name is replaced.
    pub fn register_account(&self, account: &ServiceAccount) {
        lock(&self.rules.accounts).insert(account.client_email().to_owned(), account.clone());
    }

    /// Where access tokens are fetched.
    #[must_use]
    pub fn token_uri(&self) -> String {
        self.rules.token_uri.clone()
    }

    /// How often somebody asked for an access token, with or without success.
    #[must_use]
    pub fn token_fetches(&self) -> usize {
        self.rules.token_fetches.load(Ordering::Relaxed)
    }

    /// Answers the next requests for an access token so, one each.
    pub fn queue_token_replies(&self, replies: impl IntoIterator<Item = Reply>) {
        lock(&self.rules.token_replies).extend(replies);
    }

    /// How long the access tokens issued from now on are good for; whole seconds.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.rules
            .token_lifetime_seconds
            .store(lifetime.as_secs(), Ordering::Relaxed);
    }

    /// Accepts the access tokens issued so far no longer.
    pub fn revoke_tokens(&self) {
        self.rules.tokens_mut().clear();
    }
}

impl Deref for Google {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Rules for Arc<GoogleRules> {
    fn judge(&self, request: &Arrived) -> Verdict {
        if request.path == TOKEN_PATH {
            self.token_fetches.fetch_add(1, Ordering::Relaxed);
            let scripted = lock(&self.token_replies).pop_front();
            return Verdict::aside(scripted.unwrap_or_else(|| self.issue(request)));
        }
        let project = request
            .path
            .strip_prefix("/v1/projects/")
            .and_then(|rest| rest.strip_suffix("/messages:send"));
        let Some(project) = project else {
            // what the retired legacy API answers, too
            return Verdict::refused(Reply::text(404, "Not Found"), "", "no such path");
        };
        if request.method != Method::POST {
            return Verdict::refused(Reply::text(405, ""), "", "method is not POST");
        }
        if let Err(reply) = self.check_access(request, project) {
            let complaint = format!("access: {}", reply.status);
            return Verdict::refused(*reply, target_in(&request.body), complaint);
        }
        let sent = || {
            let name = format!("projects/{project}/messages/{}", random_name());
            Reply::json(200, &json!({ "name": name }))
        };
        if request.quiet {
            return Verdict::accepted(sent(), "");
        }
        match check_message(&request.body) {
            Ok(target) => Verdict::accepted(sent(), target),
            Err(violation) => Verdict::refused(
                violation.reply(),
                target_in(&request.body),
                violation.description,
            ),
        }
    }
}

impl GoogleRules {
    /// RFC 7523 §2.1, as Google takes it.
    fn issue(&self, request: &Arrived) -> Reply {
        let refuse = |error: &str, description: &str| {
            Reply::json(
                400,
                &json!({ "error": error, "error_description": description }),
            )
        };
        if request.method != Method::POST {
            return Reply::text(405, "");
        }
        let form = form(&request.body);
        if form.get("grant_type").map(String::as_str) != Some(GRANT_TYPE) {
            return refuse("unsupported_grant_type", "Invalid grant_type");
        }
        let Some(jwt) = form.get("assertion").and_then(|text| Jwt::parse(text)) else {
            return refuse("invalid_request", "Bad Request");
        };
        let account = jwt
            .claim("iss")
            .and_then(|name| lock(&self.accounts).get(name).cloned());
        let Some(account) = account else {
            return refuse("invalid_grant", "Invalid grant: account not found");
        };
        if !jwt.is_signed_by_rsa(account.public()) {
            return refuse("invalid_grant", "Invalid JWT Signature.");
        }
        let audience = jwt.claim("aud");
        if audience != Some(&self.token_uri) && audience != Some(GOOGLES_TOKEN_URI) {
            return refuse("invalid_grant", "Invalid JWT: Failed audience check.");
        }
        if !jwt
            .claim("scope")
            .is_some_and(|scopes| scopes.split(' ').any(|scope| scope == SCOPE))
        {
            return refuse(
                "invalid_scope",
                "Invalid OAuth scope or ID token audience provided.",
            );
        }
        let seconds = unix_seconds(wall());
        let short_lived = matches!(
            (jwt.seconds("iat"), jwt.seconds("exp")),
            (Some(issued), Some(expires))
                if issued <= seconds + CLOCK_SKEW
                    && expires > seconds
                    && expires <= issued + HOUR
        );
        if !short_lived {
            return refuse(
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.",
            );
        }
        let lifetime = self.token_lifetime_seconds.load(Ordering::Relaxed);
        let token = format!("ya29.{}", random_name());
        self.tokens_mut().insert(
            format!("Bearer {token}").into_bytes(),
            (
                account.project_id().to_owned(),
                now() + Duration::from_secs(lifetime),
            ),
        );
        Reply::json(
            200,
            &json!({ "access_token": token, "expires_in": lifetime, "token_type": "Bearer" }),
        )
    }

    fn check_access(&self, request: &Arrived, project: &str) -> Result<(), Box<Reply>> {
        let unauthenticated = || {
            Box::new(Reply::google_error(
                401,
                "UNAUTHENTICATED",
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.",
                &json!({
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "ACCESS_TOKEN_EXPIRED",
                    "domain": "googleapis.com",
                }),
            ))
        };
        let authorization = request
            .headers
            .get("authorization")
            .ok_or_else(unauthenticated)?;
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let (of_project, good_until) = tokens
            .get(authorization.as_bytes())
            .ok_or_else(unauthenticated)?;
        if now() >= *good_until {
            return Err(unauthenticated());
        }
        if of_project != project {
            return Err(Box::new(Reply::google_error(
                403,
                "PERMISSION_DENIED",
                &format!(
                    "Permission 'cloudmessaging.messages.create' denied on resource '//cloudresourcemanager.googleapis.com/projects/{project}' (or it may not exist)."
                ),
                &json!({
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "IAM_PERMISSION_DENIED",
                    "domain": "cloudresourcemanager.googleapis.com",
                }),
            )));
        }
        Ok(())
    }

    fn tokens_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Vec<u8>, (String, Instant)>> {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wrong with a message.
struct Violation {
    /// The member, or none where Google answers with an `FcmError` instead.
    field: Option<String>,
    description: String,
}

impl Violation {
    fn of(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            description: description.into(),
        }
    }

    fn plain(description: impl Into<String>) -> Self {
        Self {
            field: None,
            description: description.into(),
        }
    }

    fn reply(&self) -> Reply {
        self.field.as_ref().map_or_else(
            || {
                Reply::google_error(
                    400,
                    "INVALID_ARGUMENT",
                    &self.description,
                    &json!({
                        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
                        "errorCode": "INVALID_ARGUMENT",
                    }),
                )
            },
            |field| Reply::field_violation(field, &self.description),
        )
    }
}

/// Checks a whole `messages:send` body and gives the message's target.
fn check_message(body: &[u8]) -> Result<String, Violation> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|_| Violation::of("", "Invalid JSON payload received."))?;
    let members = object(&body, "")?;
    known(members, &["message", "validate_only"], "")?;
    let message = members
        .get("message")
        .ok_or_else(|| Violation::of("message", "Request contains no message."))?;
    let message = object(message, "message")?;
    let names = [&TARGETS[..], &OTHER_MEMBERS[..]].concat();
    known(message, &names, "message")?;
    let mut targets = TARGETS
        .iter()
        .filter_map(|name| message.get_key_value(*name));
    let Some((name, target)) = targets.next() else {
        return Err(Violation::plain("Recipient of the message is not set."));
    };
    if let Some((second, _)) = targets.next() {
        return Err(Violation::of(
            format!("message.{second}"),
            format!(
                "Invalid value (oneof), oneof field 'target' is already set. Cannot set '{second}'"
            ),
        ));
    }
    let target = text(target, &format!("message.{name}"))?;
    if target.is_empty() || name == "token" && target.contains(' ') {
        return Err(Violation::plain(
            "The registration token is not a valid FCM registration token",
        ));
    }
    if let Some(data) = message.get("data") {
        check_data(data)?;
    }
    if let Some(android) = message.get("android") {
        check_android(android)?;
    }
    if let Some(apns) = message.get("apns") {
        let apns = object(apns, "message.apns")?;
        known(
            apns,
            &["headers", "payload", "fcm_options", "live_activity_token"],
            "message.apns",
        )?;
        if let Some(headers) = apns.get("headers") {
            strings(headers, "message.apns.headers")?;
        }
        if let Some(payload) = apns.get("payload") {
            object(payload, "message.apns.payload")?;
        }
    }
    Ok(target.to_owned())
}

fn check_data(data: &Value) -> Result<(), Violation> {
    let data = strings(data, "message.data")?;
    let mut size = 0;
    for (key, value) in data {
        size += key.len() + value.as_str().map_or(0, str::len);
        let reserved = key == "from"
            || key == "message_type"
            || key.starts_with("google.")
            || key.starts_with("gcm.");
        if reserved {
            return Err(Violation::plain(format!("Invalid data payload key: {key}")));
        }
    }
    if size > MOST_DATA {
        return Err(Violation::plain("Message is too big"));
    }
    Ok(())
}

fn check_android(android: &Value) -> Result<(), Violation> {
    let android = object(android, "message.android")?;
    known(
        android,
        &[
            "collapse_key",
            "priority",
            "ttl",
            "restricted_package_name",
            "data",
            "notification",
            "fcm_options",
            "direct_boot_ok",
            "bandwidth_constrained_ok",
            "restricted_satellite_ok",
        ],
        "message.android",
    )?;
    if let Some(priority) = android.get("priority") {
        let priority = text(priority, "message.android.priority")?;
        if !["NORMAL", "HIGH"].contains(&priority.to_ascii_uppercase().as_str()) {
            return Err(Violation::of(
                "message.android.priority",
                format!(
                    "Invalid value at 'message.android.priority' (type.googleapis.com/google.firebase.fcm.v1.AndroidMessagePriority), \"{priority}\""
                ),
            ));
        }
    }
    if let Some(ttl) = android.get("ttl") {
        let ttl = text(ttl, "message.android.ttl")?;
        let seconds = ttl.strip_suffix('s').and_then(|number| {
            let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
            let digits = |part: &str| {
                !part.is_empty()
                    && part.len() <= 9
                    && part.bytes().all(|byte| byte.is_ascii_digit())
            };
            (digits(whole) && digits(fraction)).then(|| whole.parse::<u64>().ok())?
        });
        if seconds.is_none() {
            return Err(Violation::of(
                "message.android.ttl",
                format!(
                    "Invalid value at 'message.android.ttl' (type.googleapis.com/google.protobuf.Duration), Illegal duration format; duration must end with 's': \"{ttl}\""
                ),
            ));
        }
        if seconds.is_some_and(|seconds| seconds > MOST_TTL) {
            return Err(Violation::plain("Invalid ttl"));
        }
    }
    for name in ["collapse_key", "restricted_package_name"] {
        if let Some(value) = android.get(name) {
            text(value, &format!("message.android.{name}"))?;
        }
    }
    if let Some(data) = android.get("data") {
        strings(data, "message.android.data")?;
    }
    Ok(())
}

/// The value as an object.
fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, Violation> {
    value.as_object().ok_or_else(|| {
        Violation::of(
            path,
            format!("Invalid value at '{path}' (TYPE_MESSAGE), {value}"),
        )
    })
}

/// The value as text.
fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, Violation> {
    value.as_str().ok_or_else(|| {
        Violation::of(
            path,
            format!("Invalid value at '{path}' (TYPE_STRING), {value}"),
        )
    })
}

/// The value as an object that holds nothing but text.
fn strings<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, Violation> {
    let map = object(value, path)?;
    for (place, value) in map.values().enumerate() {
        text(value, &format!("{path}[{place}].value"))?;
    }
    Ok(map)
}

/// Refuses members that the message type does not have.
fn known(members: &Map<String, Value>, names: &[&str], path: &str) -> Result<(), Violation> {
    members
        .keys()
        .find(|name| !names.contains(&name.as_str()))
        .map_or(Ok(()), |name| {
            let at = if path.is_empty() {
                String::new()
            } else {
                format!(" at '{path}'")
            };
            Err(Violation::of(
                path,
                format!(
                    "Invalid JSON payload received. Unknown name \"{name}\"{at}: Cannot find field."
                ),
            ))
        })
}

/// The target of a message that may otherwise be wrong, as far as there is one.
fn target_in(body: &[u8]) -> String {
    serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|body| {
            let message = body.get("message")?.clone();
            TARGETS
                .iter()
                .find_map(|name| Some(message.get(*name)?.as_str()?.to_owned()))
        })
        .unwrap_or_default()
}

/// The members of an `application/x-www-form-urlencoded` body.
fn form(body: &[u8]) -> HashMap<String, String> {
    String::from_utf8_lossy(body)
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (unescape(name), unescape(value)))
        .collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte.unwrap_or(b'0')).to_digit(16);
                let high = digit(rest.next()).unwrap_or_default();
                let low = digit(rest.next()).unwrap_or_default();
                u8::try_from(high << 4 | low).unwrap_or_default()
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
