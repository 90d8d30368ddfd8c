//! One entry of `apps`.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Number};
use shared::yaml::{Scalar, Section, Severity, Value};

use super::{
    Apns, ApnsAuth, ApnsPushType, App, Collapse, Fcm, FcmTokenKind, Glob, OpaqueOptions,
    PayloadMode, Provider, UnifiedPush, WebPush, keys, load::flag,
};

const APNS_PRODUCTION: &str = "https://api.push.apple.com";
const APNS_SANDBOX: &str = "https://api.sandbox.push.apple.com";
const FCM: &str = "https://fcm.googleapis.com";

const DEFAULT_INFLIGHT_REQUEST_LIMIT: usize = 512;
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_MAX_CONNECTIONS: usize = 20;
const DEFAULT_TTL: u32 = 900;

/// `type:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Apns,
    Fcm,
    WebPush,
    UnifiedPush,
}

/// Reads the entry `id`. Every problem in it is reported; with one that leaves a gap there is no app.
pub(super) fn read(id: &str, entry: &Value<'_>, now: SystemTime) -> Option<App> {
    let section = entry.section();
    let kind = kind(&section)?;

    let payload = section.get("payload");
    let mode = payload.as_ref().and_then(|value| {
        value.choice(&[
            ("opaque", PayloadMode::Opaque),
            ("wake", PayloadMode::Wake),
            ("sygnal", PayloadMode::Sygnal),
        ])
    });
    if payload.is_none() {
        warn_of_default_payload(entry, kind);
    }
    let opaque = opaque_options(&section, mode);
    let inflight_request_limit = section
        .get("inflight_request_limit")
        .and_then(|value| value.count(1..=usize::MAX));
    let request_timeout = section
        .get("request_timeout")
        .and_then(|value| value.duration(Duration::from_millis(100)..=Duration::from_mins(10)));
    let provider = match kind {
        Kind::Apns => apns(&section, now).map(Provider::Apns),
        Kind::Fcm => fcm(&section).map(Provider::Fcm),
        Kind::WebPush => web_push(&section).map(Provider::WebPush),
        Kind::UnifiedPush => Some(Provider::UnifiedPush(unified_push(&section))),
    };
    section.finish(Severity::Warning);

    Some(App {
        id: id.to_owned(),
        inflight_request_limit: inflight_request_limit.unwrap_or(DEFAULT_INFLIGHT_REQUEST_LIMIT),
        payload: mode.unwrap_or_default(),
        payload_given: payload.is_some(),
        opaque,
        request_timeout: request_timeout.unwrap_or(DEFAULT_REQUEST_TIMEOUT),
        provider: provider?,
    })
}

fn kind(section: &Section<'_>) -> Option<Kind> {
    let value = section.required("type", "one of apns, gcm, webpush, unifiedpush")?;
    if let Some((Scalar::Text, text)) = value.meaning()
        && text.contains('.')
    {
        value.unexpected(
            "one of apns, gcm, webpush, unifiedpush: Python classes are not supported \
             (keep Sygnal for this app, or remove the entry)",
        );
        return None;
    }
    value.choice(&[
        ("apns", Kind::Apns),
        ("gcm", Kind::Fcm),
        ("webpush", Kind::WebPush),
        ("unifiedpush", Kind::UnifiedPush),
    ])
}

/// Whoever comes from Sygnal has to know that the default is another one, and whom it affects.
fn warn_of_default_payload(entry: &Value<'_>, kind: Kind) {
    let consequence = match kind {
        Kind::Apns => {
            "Apple sees no room, event or sender; Element X iOS and Element Classic iOS show a \
             generic alert"
        }
        Kind::Fcm => {
            "Google sees no room, event or sender; Element Classic Android works fully, FluffyChat \
             syncs but shows no new alert, Element X Android shows nothing"
        }
        Kind::WebPush => {
            "messages are padded, and no name or text is in them; clients that expect Sygnal's \
             fields have to be adapted"
        }
        Kind::UnifiedPush => {
            "devices without keys, which are all of today's, get in clear what the homeserver sent; \
             for devices with keys it is encrypted and padded"
        }
    };
    let sygnal = match kind {
        Kind::Apns | Kind::Fcm | Kind::WebPush => "`payload: sygnal` sends what Sygnal sends; ",
        // Sygnal has no such apps.
        Kind::UnifiedPush => "",
    };
    entry.warning(format_args!(
        "`payload` is not set, so it is `opaque`: {consequence}. {sygnal}`payload: opaque` ends this \
         warning"
    ));
}

fn opaque_options(app: &Section<'_>, mode: Option<PayloadMode>) -> OpaqueOptions {
    let section = app.section("opaque");
    if mode == Some(PayloadMode::Sygnal)
        && let Some(value) = app.get("opaque")
        && !value.is_empty()
    {
        value.warning("has no effect with `payload: sygnal`");
    }
    let defaults = OpaqueOptions::default();
    let epochs = Duration::from_mins(1)..=Duration::from_hours(366 * 24);
    let options = OpaqueOptions {
        alert_loc_key: section
            .get("alert_loc_key")
            .and_then(|value| value.filled_text().map(str::to_owned))
            .unwrap_or(defaults.alert_loc_key),
        sound: section
            .get("sound")
            .and_then(|value| value.filled_text().map(str::to_owned)),
        epoch: section
            .get("epoch")
            .and_then(|value| value.duration(epochs))
            .unwrap_or(defaults.epoch),
        key_file: section
            .get("key_file")
            .and_then(|value| keys::opaque_key(&value)),
        sealed_content: flag(&section, "sealed_content", defaults.sealed_content),
        badge_pushes: flag(&section, "badge_pushes", defaults.badge_pushes),
        collapse: section
            .get("collapse")
            .and_then(|value| value.choice(&[("none", Collapse::None), ("room", Collapse::Room)]))
            .unwrap_or(defaults.collapse),
        low_priority: flag(&section, "low_priority", defaults.low_priority),
        jitter: section
            .get("jitter")
            .and_then(|value| value.duration(Duration::ZERO..=Duration::from_hours(1)))
            .unwrap_or(defaults.jitter),
    };
    section.finish(Severity::Warning);
    options
}

fn apns(section: &Section<'_>, now: SystemTime) -> Option<Apns> {
    let platform = section
        .get("platform")
        .and_then(|value| {
            value.choice(&[
                ("production", APNS_PRODUCTION),
                ("prod", APNS_PRODUCTION),
                ("", APNS_PRODUCTION),
                ("sandbox", APNS_SANDBOX),
            ])
        })
        .unwrap_or(APNS_PRODUCTION);
    let push_type = section.get("push_type").and_then(|value| {
        value.choice(&[
            ("alert", ApnsPushType::Alert),
            ("background", ApnsPushType::Background),
            ("voip", ApnsPushType::Voip),
            ("complication", ApnsPushType::Complication),
            ("fileprovider", ApnsPushType::FileProvider),
            ("mdm", ApnsPushType::Mdm),
        ])
    });
    let auth = apns_auth(section, now);
    let convert_device_token_to_hex = flag(section, "convert_device_token_to_hex", true);
    let send_badge_counts = flag(section, "send_badge_counts", true);
    Some(Apns {
        endpoint: endpoint(section, platform)?,
        auth: auth?,
        push_type,
        convert_device_token_to_hex,
        send_badge_counts,
    })
}

fn apns_auth(section: &Section<'_>, now: SystemTime) -> Option<ApnsAuth> {
    let topic = section.get("topic");
    let (key_id, team_id) = (section.get("key_id"), section.get("team_id"));
    match (section.get("certfile"), section.get("keyfile")) {
        (Some(certfile), keyfile) => {
            if let Some(keyfile) = keyfile {
                keyfile.warning("ignored: `certfile` is set as well and wins (remove one of them)");
            }
            let certificate = keys::apns_certificate(&certfile, now)?;
            if let Some(topic) = topic
                && topic.text().is_some_and(|topic| topic != certificate.topic)
            {
                topic.warning(format_args!(
                    "ignored: with `certfile` the topic is the certificate's UID, {:?}",
                    certificate.topic
                ));
            }
            Some(ApnsAuth::Certificate {
                identity: certificate.identity,
                topic: certificate.topic,
                not_after: certificate.not_after,
            })
        }
        (None, Some(keyfile)) => {
            let text = |value: Option<Value<'_>>, key, what| {
                let Some(value) = value else {
                    section.error(format_args!(
                        "`{key}` is missing (with `keyfile` it is required: {what})"
                    ));
                    return None;
                };
                // topic: a header; key_id and team_id: in the provider token, where Apple wants the same
                let text = value.filled_text()?;
                if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                    value.unexpected(format_args!("{what}, without spaces or special characters"));
                    return None;
                }
                Some(text.to_owned())
            };
            let key = keys::apns_key(&keyfile);
            let key_id = text(key_id, "key_id", "the 10 characters that name the key");
            let team_id = text(team_id, "team_id", "the 10 characters that name the team");
            let topic = text(topic, "topic", "the app's bundle ID");
            Some(ApnsAuth::Token {
                key: key?,
                key_id: key_id?,
                team_id: team_id?,
                topic: topic?,
            })
        }
        (None, None) => {
            section.error(
                "neither `keyfile` nor `certfile` is set (set `keyfile`, `key_id`, `team_id` and \
                 `topic`, or `certfile`)",
            );
            None
        }
    }
}

fn fcm(section: &Section<'_>) -> Option<Fcm> {
    // Sygnal's for the retired interface; many files keep it beside the new keys.
    let _ = section.ignored("api_key");
    let version = api_version(section);
    let (project_id, service_account) = if version.is_some() {
        let project_id = section
            .required("project_id", "the project's ID in the Firebase console")
            .and_then(|value| project_id(&value));
        let service_account = section
            .required(
                "service_account_file",
                "the JSON key of a service account: Firebase console, project settings",
            )
            .and_then(|value| keys::service_account(&value));
        (project_id, service_account)
    } else {
        // The remedy for the version names both already; what is there is checked all the same.
        let project_id = section.get("project_id");
        let service_account = section.get("service_account_file");
        (
            project_id.and_then(|value| self::project_id(&value)),
            service_account.and_then(|value| keys::service_account(&value)),
        )
    };
    let fcm_options = section
        .get("fcm_options")
        .map(|value| fcm_options(&value))
        .unwrap_or_default();
    let token_kind = section
        .get("token_kind")
        .and_then(|value| {
            value.choice(&[
                ("auto", FcmTokenKind::Auto),
                ("token", FcmTokenKind::Token),
                ("fid", FcmTokenKind::Fid),
            ])
        })
        .unwrap_or_default();
    let max_connections = max_connections(section);
    let send_badge_counts = flag(section, "send_badge_counts", true);
    Some(Fcm {
        endpoint: endpoint(section, FCM)?,
        project_id: project_id?,
        service_account: service_account?,
        fcm_options,
        token_kind,
        max_connections,
        send_badge_counts,
    })
}

/// Google: letters, digits and hyphens, for old projects also a domain (`example.org:project`).
fn project_id(value: &Value<'_>) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let text = value.filled_text()?;
    if !text.bytes().all(fits) {
        value.unexpected("the project's ID in the Firebase console: letters, digits and hyphens");
        return None;
    }
    Some(text.to_owned())
}

fn api_version(section: &Section<'_>) -> Option<()> {
    const REMEDY: &str = "Google retired that interface in 2024 \
         (set `api_version: v1`, `project_id` and `service_account_file`)";
    match section.get("api_version") {
        None => {
            section.error(format_args!(
                "`api_version` is missing, which means `legacy`: {REMEDY}"
            ));
            None
        }
        Some(value) if matches!(value.meaning(), Some((Scalar::Text, "legacy"))) => {
            value.error(format_args!("found \"legacy\": {REMEDY}"));
            None
        }
        Some(value) => value.choice(&[("v1", ())]),
    }
}

fn fcm_options(value: &Value<'_>) -> Map<String, serde_json::Value> {
    const SET_BY_THE_GATEWAY: [&str; 8] = [
        "data",
        "priority",
        "to",
        "registration_ids",
        "token",
        "fid",
        "topic",
        "condition",
    ];
    let entries = value.entries();
    for (key, value) in &entries {
        if SET_BY_THE_GATEWAY.contains(key) {
            value.error("cannot be set here, since it is set for each push (remove it)");
        }
    }
    entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), json(&value)?)))
        .collect()
}

/// What Python's `json` makes of what `PyYAML` reads.
fn json(value: &Value<'_>) -> Option<serde_json::Value> {
    use serde_json::Value as Json;

    let Some((meaning, text)) = value.meaning() else {
        if value.is_list() {
            let items = value.list()?;
            return Some(Json::Array(items.iter().filter_map(json).collect()));
        }
        let entries = value.entries().into_iter();
        return Some(Json::Object(
            entries
                .filter_map(|(key, value)| Some((key.to_owned(), json(&value)?)))
                .collect(),
        ));
    };
    let number = |number: Option<Number>| {
        if number.is_none() {
            value.unexpected("a number that JSON knows");
        }
        number.map(Json::Number)
    };
    match meaning {
        Scalar::Null => Some(Json::Null),
        Scalar::Boolean(boolean) => Some(Json::Bool(boolean)),
        Scalar::Integer(integer) => number(integer.and_then(Number::from_i128)),
        Scalar::Float(float) => number(Number::from_f64(float)),
        Scalar::Timestamp => value.text().map(Json::from),
        Scalar::Merge | Scalar::Text => Some(Json::from(text)),
    }
}

fn web_push(section: &Section<'_>) -> Option<WebPush> {
    let vapid_key = section
        .required(
            "vapid_private_key",
            "the file with the P-256 private key that browsers know the public key of",
        )
        .and_then(|value| keys::vapid_key(&value));
    let vapid_subject = section
        .required(
            "vapid_contact_email",
            "an e-mail address at which push services can reach you",
        )
        .and_then(|value| vapid_subject(&value));
    let allowed_endpoints = allowed_endpoints(section);
    let ttl = section
        .get("ttl")
        .and_then(|value| value.integer(0..=u64::from(u32::MAX)))
        .and_then(|ttl| u32::try_from(ttl).ok())
        .unwrap_or(DEFAULT_TTL);
    let max_connections = max_connections(section);
    Some(WebPush {
        vapid_key: vapid_key?,
        vapid_subject: vapid_subject?,
        allowed_endpoints,
        ttl,
        max_connections,
    })
}

fn vapid_subject(value: &Value<'_>) -> Option<String> {
    let text = value.filled_text()?.trim();
    let address = text.strip_prefix("mailto:").unwrap_or(text);
    if address.len() < text.len() {
        value.warning(
            "`mailto:` is added automatically, and Sygnal would send it twice (remove it)",
        );
    }
    let looks_like_an_address = address
        .split_once('@')
        .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
        && !address.contains(char::is_whitespace);
    if !looks_like_an_address {
        value.warning("is not an e-mail address: some push services refuse every message then");
    }
    Some(format!("mailto:{address}"))
}

fn unified_push(section: &Section<'_>) -> UnifiedPush {
    UnifiedPush {
        allowed_endpoints: allowed_endpoints(section),
        max_connections: max_connections(section),
    }
}

fn allowed_endpoints(section: &Section<'_>) -> Option<Vec<Glob>> {
    let list = section.get("allowed_endpoints")?;
    let glob = |item: &Value<'_>| {
        let text = item.filled_text()?;
        if text.contains('/') {
            item.warning(format_args!(
                "{text:?} has a `/` in it and matches no host (write the host alone, or host:port)"
            ));
        }
        Some(Glob::new(text))
    };
    Some(list.one_or_more().iter().filter_map(glob).collect())
}

fn max_connections(section: &Section<'_>) -> usize {
    section
        .get("max_connections")
        .and_then(|value| value.count(1..=usize::MAX))
        .unwrap_or(DEFAULT_MAX_CONNECTIONS)
}

/// `endpoint`, or the provider's own.
fn endpoint(section: &Section<'_>, default: &'static str) -> Option<http::Uri> {
    let Some(value) = section.get("endpoint") else {
        return Some(http::Uri::from_static(default));
    };
    let text = value.filled_text()?;
    let uri = text.parse::<http::Uri>().ok().filter(|uri| {
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let has_user = uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'));
        matches!(uri.scheme_str(), Some("http" | "https")) && has_host && is_bare && !has_user
    });
    if uri.is_none() {
        // A user and a password may be in there.
        value
            .hidden()
            .error("expected `https://host[:port]`, without a path, a query or a user");
    }
    uri
}
