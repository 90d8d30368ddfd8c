//! `credentials:` who may ask for credentials, and what they get.

use std::{net::IpAddr, time::Duration};

use shared::{
    secret::Secret,
    yaml::{Section, Severity, Value},
};
use url::Url;

use super::{Credentials, Listen, load::duration};
use crate::credentials::MAX_URIS;

/// Shorter ones can be guessed over the network.
const SHORT_API_KEY: usize = 16;

/// Web clients look every ten minutes whether their credentials last for ten more.
const SHORT_TTL: Duration = Duration::from_mins(10);

const DAY: Duration = Duration::from_hours(24);

/// Reads the section. What is served by default depends on `realm` and `listen`.
pub(super) fn read(section: &Section<'_>, realm: Option<&str>, listen: &Listen) -> Credentials {
    let uris = section.get("uris").filter(|value| !value.is_empty());
    let given = uris.as_ref().map(|value| uri_list(value, listen));
    let credentials = Credentials {
        ttl: duration(
            section,
            "ttl",
            Duration::from_mins(1)..=30 * DAY,
            Duration::from_hours(12),
        ),
        uris: given.unwrap_or_else(|| default_uris(realm.unwrap_or_default(), listen)),
        api_keys: section
            .get("api_keys")
            .map_or_else(Vec::new, |value| api_keys(&value)),
        homeserver: section
            .get("homeserver")
            .and_then(|value| homeserver(&value)),
        allow_guests: section
            .get("allow_guests")
            .and_then(|value| value.boolean())
            .unwrap_or(false),
        pseudonym_epoch: duration(
            section,
            "pseudonym_epoch",
            Duration::from_hours(1)..=30 * DAY,
            DAY,
        ),
    };
    if realm.is_some() && uris.is_none() && credentials.uris.is_empty() && credentials.is_used() {
        section.error(
            "`realm` is no host name, so that clients cannot be told where to connect (set \
             `credentials.uris`)",
        );
    }
    if credentials.allow_guests && credentials.homeserver.is_none() {
        section
            .warning("`allow_guests` has no effect without `homeserver`, which knows the guests");
    }
    if let Some(value) = section.get("ttl")
        && credentials.homeserver.is_some()
        && credentials.ttl <= SHORT_TTL
    {
        value.warning(
            "Matrix clients look after their credentials every ten minutes, so that calls fail with such a short one",
        );
    }
    if let Some(value) = uris
        && credentials.uris.len() > MAX_URIS
    {
        value.warning(format_args!(
            "clients are told no more than {MAX_URIS} of these, `turns:` first: browsers warn of five servers, and \
             each makes calls slower to start"
        ));
    }
    section.finish(Severity::Error);
    credentials
}

fn uri_list(value: &Value<'_>, listen: &Listen) -> Vec<String> {
    let mut uris: Vec<String> = Vec::new();
    for item in value.one_or_more() {
        let Some(text) = item.text() else {
            continue;
        };
        let Some(transport) = check_uri(text) else {
            item.unexpected(
                "a TURN URI, such as turns:turn.example.org:5349?transport=tcp or \
                 turn:turn.example.org?transport=udp",
            );
            continue;
        };
        let served = match transport {
            Transport::Udp => !listen.udp.is_empty(),
            Transport::Tcp => !listen.tcp.is_empty(),
            Transport::Tls => !listen.tls.is_empty(),
            Transport::Dtls => !listen.dtls.is_empty(),
        };
        if !served {
            item.warning(format_args!(
                "clients are sent to {}, on which this relay does not listen (as long as nothing in front of \
                 it does that)",
                transport.label()
            ));
        }
        if uris.iter().any(|known| known == text) {
            item.warning("this URI is in the list already");
            continue;
        }
        uris.push(text.to_owned());
    }
    uris
}

#[derive(Clone, Copy)]
enum Transport {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

impl Transport {
    const fn label(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Dtls => "DTLS",
        }
    }
}

/// RFC 7065 §3.1. Without `transport` a client resolves it by RFC 5928; without records of that kind it is
/// UDP, or TLS over TCP.
fn check_uri(text: &str) -> Option<Transport> {
    let (rest, secure) = match text.strip_prefix("turns:") {
        Some(rest) => (rest, true),
        None => (text.strip_prefix("turn:")?, false),
    };
    let (host, query) = match rest.split_once('?') {
        Some((host, query)) => (host, Some(query)),
        None => (rest, None),
    };
    parse_host(host)?;
    match (query, secure) {
        (None | Some("transport=udp"), false) => Some(Transport::Udp),
        (Some("transport=tcp"), false) => Some(Transport::Tcp),
        (None | Some("transport=tcp"), true) => Some(Transport::Tls),
        (Some("transport=udp"), true) => Some(Transport::Dtls),
        _ => None,
    }
}

/// Host and port of `host[:port]`, which a query may follow.
pub(super) fn parse_host(text: &str) -> Option<(&str, Option<u16>)> {
    let text = text.split_once('?').map_or(text, |(host, _)| host);
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (
            host,
            port.strip_prefix(':').or((!port.is_empty()).then_some("")),
        )
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if !is_host_name(host) {
            return None;
        }
        (host, port)
    };
    match port {
        None => Some((host, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = digits.parse().ok().filter(|port| *port != 0)?;
            Some((host, Some(port)))
        }
        Some(_) => None,
    }
}

/// A name of DNS, or an IPv4 address. One word alone is no name that clients could resolve, but for
/// `localhost`.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label) && (text.contains('.') || text == "localhost")
}

/// TLS first, since it shows the least to the network; then UDP, which is the best for calls.
fn default_uris(realm: &str, listen: &Listen) -> Vec<String> {
    let host = match realm.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(_)) => realm.to_owned(),
        Err(_) if is_host_name(realm) => realm.to_owned(),
        Err(_) => return Vec::new(),
    };
    [
        ("turns", &listen.tls, "tcp"),
        ("turn", &listen.udp, "udp"),
        ("turn", &listen.tcp, "tcp"),
    ]
    .into_iter()
    .filter_map(|(scheme, addresses, transport)| {
        let port = addresses.first()?.port();
        Some(format!("{scheme}:{host}:{port}?transport={transport}"))
    })
    .collect()
}

fn api_keys(value: &Value<'_>) -> Vec<Secret<String>> {
    let mut keys: Vec<Secret<String>> = Vec::new();
    for item in value.one_or_more() {
        let item = item.hidden();
        let Some(text) = item.filled_text() else {
            continue;
        };
        if text.len() < SHORT_API_KEY {
            item.error(format_args!(
                "has fewer than {SHORT_API_KEY} characters and could be guessed (make one: openssl rand -hex 16)"
            ));
        }
        keys.push(Secret::new(text.to_owned()));
    }
    keys
}

fn homeserver(value: &Value<'_>) -> Option<Url> {
    const EXPECTED: &str = "the homeserver's base URL, such as https://matrix.example.org";
    let text = value.filled_text()?;
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "https" | "http")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let Some(url) = url else {
        value.clone().hidden().unexpected(EXPECTED);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        value.error(format_args!(
            "found a URL with a user or a password in it, expected {EXPECTED}"
        ));
        return None;
    }
    Some(url)
}
