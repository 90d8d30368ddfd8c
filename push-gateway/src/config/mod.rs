//! The push gateway's configuration: what the rest of the gateway works with.
//!
//! A file (any `sygnal.yaml`, plus the keys of this project) is read by [`load()`]: everything in it
//! is checked, every key and certificate is opened, and all problems are reported at once. What is
//! here afterwards is valid.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use crate::sealed::pushkey::PushkeyKeys;
use shared::{address_policy::AddressPolicy, http_client::ClientIdentity, secret::Secret};

mod app;
mod glob;
mod keys;
mod load;
pub mod report;
#[cfg(test)]
mod tests;

pub use glob::Glob;
pub use load::{Loaded, VARIABLES, http_addresses, load};

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the file was read from.
    pub path: PathBuf,
    /// `http.bind_addresses` × `http.port`: where the gateway listens.
    pub listen: Vec<SocketAddr>,
    /// `metrics.prometheus`: where metrics are served, when they are.
    pub metrics_listen: Option<SocketAddr>,
    /// `proxy:`, else `HTTPS_PROXY`: how providers are reached. With user and password in it.
    pub proxy: Option<Secret<String>>,
    /// `NO_PROXY`: which hosts are reached directly all the same. Not applied to `proxy:` of the file
    /// unless the variable is set.
    pub no_proxy: Option<String>,
    /// `apps`, in the order of the file.
    pub apps: Vec<App>,
    /// `pushkey_keys`: what sealed pushkeys are opened with, newest first.
    pub pushkey_keys: Arc<PushkeyKeys>,
    /// `limits`
    pub limits: Limits,
    /// `outbound`: which addresses Web Push and UnifiedPush endpoints may have.
    pub outbound: AddressPolicy,
    /// `log`
    pub log: Log,
}

/// One entry of `apps`.
#[derive(Clone, Debug)]
pub struct App {
    /// The entry's key: an app ID or a glob. It is a metric label and may be logged.
    pub id: String,
    /// `inflight_request_limit` (default 512, at least 1): pushes under way at once.
    pub inflight_request_limit: usize,
    /// `payload` (default `opaque`)
    pub payload: PayloadMode,
    /// Whether `payload` was written in the file.
    pub payload_given: bool,
    /// `opaque`
    pub opaque: OpaqueOptions,
    /// `request_timeout` (default 10 s): one provider request.
    pub request_timeout: Duration,
    /// `type` and what belongs to it.
    pub provider: Provider,
}

/// What a provider gets to see (spec/opaque-push.md §1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PayloadMode {
    /// A constant alert and a rotating identifier.
    #[default]
    Opaque,
    /// The same bytes for every push of the app.
    Wake,
    /// What Sygnal sends.
    Sygnal,
}

/// `opaque:` of an app (spec/opaque-push.md §6).
#[derive(Clone, Debug)]
pub struct OpaqueOptions {
    /// `alert_loc_key` (default `Notification`)
    pub alert_loc_key: String,
    /// `sound`: `aps.sound`, absent by default
    pub sound: Option<String>,
    /// `epoch` (default 24 h, at least 1 minute): how long one identifier key lives.
    pub epoch: Duration,
    /// `key_file`: 32 bytes that replicas share; without it the key is random and held in memory.
    pub key_file: Option<Arc<Secret<[u8; 32]>>>,
    /// `sealed_content` (default false)
    pub sealed_content: bool,
    /// `badge_pushes` (default false)
    pub badge_pushes: bool,
    /// `collapse` (default `none`)
    pub collapse: Collapse,
    /// `low_priority` (default false): lets `prio: low` through.
    pub low_priority: bool,
    /// `jitter` (default 0 s): the largest random delay before sending.
    pub jitter: Duration,
}

/// `opaque.collapse`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Collapse {
    /// No collapse tag.
    #[default]
    None,
    /// A rotating tag per device and room.
    Room,
}

/// `type:` of an app.
#[derive(Clone, Debug)]
pub enum Provider {
    /// `type: apns`
    Apns(Apns),
    /// `type: gcm`, `api_version: v1`
    Fcm(Fcm),
    /// `type: webpush`
    WebPush(WebPush),
    /// `type: unifiedpush`
    UnifiedPush(UnifiedPush),
}

/// `type: apns`
#[derive(Clone, Debug)]
pub struct Apns {
    /// `endpoint`, else by `platform`: `https://api.push.apple.com` or `https://api.sandbox.push.apple.com`. No path.
    pub endpoint: http::Uri,
    /// `certfile`, or `keyfile` with `key_id`, `team_id` and `topic`
    pub auth: ApnsAuth,
    /// `push_type`; none: the header is left out (in mode `sygnal`)
    pub push_type: Option<ApnsPushType>,
    /// `convert_device_token_to_hex` (default true)
    pub convert_device_token_to_hex: bool,
    /// `send_badge_counts` (default true)
    pub send_badge_counts: bool,
}

/// How the gateway proves to Apple who it is.
#[derive(Clone)]
pub enum ApnsAuth {
    /// A provider token signed with a `.p8` key.
    Token {
        /// The PEM text of `keyfile`, checked to be an EC P-256 key in PKCS#8.
        key: Secret<String>,
        /// `key_id`
        key_id: String,
        /// `team_id`
        team_id: String,
        /// `topic`
        topic: String,
    },
    /// A TLS client certificate.
    Certificate {
        /// Certificate chain and key of `certfile`.
        identity: Arc<ClientIdentity>,
        /// The subject's UID of the certificate: Apple's topic.
        topic: String,
        /// When the certificate expires, in seconds since 1970.
        not_after: i64,
    },
}

/// `push_type:`; Apple's values of `apns-push-type` that Sygnal knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApnsPushType {
    /// `alert`
    Alert,
    /// `background`
    Background,
    /// `voip`
    Voip,
    /// `complication`
    Complication,
    /// `fileprovider`
    FileProvider,
    /// `mdm`
    Mdm,
}

/// `type: gcm`
#[derive(Clone, Debug)]
pub struct Fcm {
    /// `endpoint`, else `https://fcm.googleapis.com`. No path.
    pub endpoint: http::Uri,
    /// `project_id`
    pub project_id: String,
    /// `service_account_file`
    pub service_account: ServiceAccount,
    /// `fcm_options` as JSON (an object); `data`, `priority`, `token` and the like are refused.
    pub fcm_options: serde_json::Map<String, serde_json::Value>,
    /// `token_kind` (default `auto`)
    pub token_kind: FcmTokenKind,
    /// `max_connections` (default 20, at least 1): connections to FCM. Sygnal sends one request at a time
    /// over each; here HTTP/2 carries as many as Google's stream limit lets it.
    pub max_connections: usize,
    /// `send_badge_counts` (default true)
    pub send_badge_counts: bool,
}

/// A Google service account, from its JSON file.
#[derive(Clone)]
pub struct ServiceAccount {
    /// `client_email`
    pub client_email: String,
    /// `private_key`: PEM, checked to be an RSA key
    pub private_key: Secret<String>,
    /// `private_key_id`
    pub private_key_id: Option<String>,
    /// `token_uri` (default `https://oauth2.googleapis.com/token`)
    pub token_uri: http::Uri,
}

/// `token_kind:` of an FCM app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FcmTokenKind {
    /// By its form: 22 URL-safe base64 characters are a Firebase installation ID, all else is a token.
    #[default]
    Auto,
    /// Always `token`.
    Token,
    /// Always `fid`.
    Fid,
}

/// `type: webpush`
#[derive(Clone)]
pub struct WebPush {
    /// `vapid_private_key`: the P-256 private key's 32 bytes
    pub vapid_key: Arc<Secret<[u8; 32]>>,
    /// `vapid_contact_email`, with `mailto:` put before it if it is not there
    pub vapid_subject: String,
    /// `allowed_endpoints`; none: any host
    pub allowed_endpoints: Option<Vec<Glob>>,
    /// `ttl` (default 900): seconds, in mode `sygnal`
    pub ttl: u32,
    /// `max_connections` (default 20, at least 1): connections per push service
    pub max_connections: usize,
}

/// `type: unifiedpush`
#[derive(Clone, Debug)]
pub struct UnifiedPush {
    /// `allowed_endpoints`; none: any host
    pub allowed_endpoints: Option<Vec<Glob>>,
    /// `max_connections` (default 20, at least 1): connections per push server
    pub max_connections: usize,
}

/// `limits:`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `max_body` (default 512 KiB, at least 1 KiB): bytes of one request's body.
    pub max_body: usize,
    /// `request_budget` (default 25 s, at least 1 s): within which every request is answered.
    pub request_budget: Duration,
    /// `per_pushkey_per_minute` (default 240); none: off
    pub per_pushkey_per_minute: Option<u32>,
    /// `per_source_per_second` (default off): requests of one source address (IPv6: /64).
    pub per_source_per_second: Option<u32>,
}

pub use shared::telemetry::{Log, LogFormat};

impl Default for OpaqueOptions {
    fn default() -> Self {
        Self {
            alert_loc_key: "Notification".to_owned(),
            sound: None,
            epoch: Duration::from_hours(24),
            key_file: None,
            sealed_content: false,
            badge_pushes: false,
            collapse: Collapse::None,
            low_priority: false,
            jitter: Duration::ZERO,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 512 * 1024,
            request_budget: Duration::from_secs(25),
            per_pushkey_per_minute: Some(240),
            per_source_per_second: None,
        }
    }
}

impl PayloadMode {
    /// The word of the configuration file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::Wake => "wake",
            Self::Sygnal => "sygnal",
        }
    }
}

impl ApnsPushType {
    /// Apple's word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Background => "background",
            Self::Voip => "voip",
            Self::Complication => "complication",
            Self::FileProvider => "fileprovider",
            Self::Mdm => "mdm",
        }
    }
}

impl Provider {
    /// The word of `type:` in the configuration file.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Apns(_) => "apns",
            Self::Fcm(_) => "gcm",
            Self::WebPush(_) => "webpush",
            Self::UnifiedPush(_) => "unifiedpush",
        }
    }
}

impl std::fmt::Debug for ApnsAuth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Token { .. } => "ApnsAuth::Token",
            Self::Certificate { .. } => "ApnsAuth::Certificate",
        })
    }
}

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ServiceAccount([hidden])")
    }
}

impl std::fmt::Debug for WebPush {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("WebPush")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}
