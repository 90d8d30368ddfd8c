//! From a file to a [`Config`].

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use shared::{
    environment::Environment,
    key_file::KeyFile,
    secret::Secret,
    yaml::{Diagnostics, Node, Scalar, Section, Severity, Value, Variables},
};

use super::{
    Config, Credentials, Lifetime, Listen, Log, Quotas, Timeouts, Tls, backend, credentials,
    network::{http, listen, peers, relay},
};
use crate::certificates::{Identity, Unusable};

/// What reading a file gave.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, when there is no error.
    pub config: Option<Config>,
    /// What should be looked at but stops nothing, in the order of the file.
    pub warnings: Vec<String>,
    /// What makes every TLS connection fail; the rest goes on.
    pub failing: Vec<String>,
    /// What must be mended, all of it, in the order of the file.
    pub errors: Vec<String>,
    /// Which environment variables had a say, if any had: a line for people.
    pub from_environment: Option<String>,
}

/// The keys that environment variables can have. The keys of `relay.external` are addresses.
pub const VARIABLES: Variables = Variables {
    prefix: "NOCTURNE_TURN__",
    whole: &["relay.external"],
    files: &["secrets_file"],
};

/// Secrets that one request is tried with, at the most: anybody can make the relay try them all.
const MOST_SECRETS: usize = 16;

/// Shorter ones can be found from a single credential by trying.
const SHORT_SECRET: usize = 16;

/// RFC 8489 §14.9 lets a realm have fewer than 128 characters.
const LONGEST_REALM: usize = 127;

/// How long calls under way may go on once the relay is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long before its end a certificate's expiry is worth a warning: those for 90 days are renewed 30
/// days before theirs.
const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

/// Reads `path`, the [`VARIABLES`] of `environment`, and everything that they name. The certificate is judged
/// by `now`.
#[must_use]
pub fn load(path: &Path, environment: &Environment, now: SystemTime) -> Loaded {
    let diagnostics = Diagnostics::new(path.display().to_string());
    let config = VARIABLES
        .read(path, environment, &diagnostics)
        .map(|node| config_of(&node, path, now, &diagnostics));
    Loaded {
        from_environment: VARIABLES.note(path, environment),
        ..finish(config, &diagnostics)
    }
}

/// Where the HTTP server of a relay with this configuration listens, whatever else may be wrong with it.
///
/// # Errors
///
/// When the configuration cannot be read, or does not say where: each problem, with file and line.
pub fn http_addresses(
    path: &Path,
    environment: &Environment,
) -> Result<Vec<SocketAddr>, Vec<String>> {
    let diagnostics = Diagnostics::new(path.display().to_string());
    let addresses = VARIABLES.read(path, environment, &diagnostics).map(|node| {
        let root = Value::root(&node, &diagnostics).section();
        http(&root.section("http"), &Listen::default()).0
    });
    match addresses {
        Some(addresses) if !diagnostics.has_errors() => Ok(addresses),
        Some(_) | None => Err(diagnostics.of(Severity::Error)),
    }
}

pub(super) fn finish(config: Option<Config>, diagnostics: &Diagnostics) -> Loaded {
    Loaded {
        config: config.filter(|_| !diagnostics.has_errors()),
        warnings: diagnostics.of(Severity::Warning),
        failing: diagnostics.of(Severity::Failing),
        errors: diagnostics.of(Severity::Error),
        from_environment: None,
    }
}

/// As [`load`], for a text that is read already.
#[cfg(test)]
pub(super) fn config_of_text(
    text: &str,
    path: &Path,
    environment: &Environment,
    now: SystemTime,
    diagnostics: &Diagnostics,
) -> Option<Config> {
    let node = VARIABLES.parse(text, environment, diagnostics)?;
    Some(config_of(&node, path, now, diagnostics))
}

fn config_of(node: &Node, path: &Path, now: SystemTime, diagnostics: &Diagnostics) -> Config {
    let root = Value::root(node, diagnostics).section();

    let realm = realm(&root);
    let secrets = secrets(&root);
    let tls_section = root.get("tls");
    let listen = listen(&root, tls_section.is_some());
    let credentials = credentials::read(&root.section("credentials"), realm.as_deref(), &listen);
    let has_dtls = !listen.dtls.is_empty();
    let tls = tls_section.and_then(|value| tls(&value, &hosts_of_tls(&credentials), has_dtls, now));
    let relay = relay(&root.section("relay"), &listen);
    let (http_listen, trusted_proxies) = http(&root.section("http"), &listen);
    backend::check(&root.section("listen"), &listen, &http_listen);
    let config = Config {
        path: path.to_owned(),
        realm: realm.unwrap_or_default(),
        secrets,
        peers: peers(&root.section("peers")),
        quotas: quotas(&root.section("quotas")),
        lifetime: lifetime(&root.section("lifetime")),
        timeouts: timeouts(&root.section("timeouts")),
        drain_timeout: duration(
            &root,
            "drain_timeout",
            Duration::ZERO..=Duration::from_hours(24),
            DRAIN_TIMEOUT,
        ),
        workers: workers(&root),
        http_listen,
        trusted_proxies,
        log: log(&root.section("log")),
        listen,
        tls,
        relay,
        credentials,
    };
    root.finish(Severity::Error);
    config
}

fn realm(root: &Section<'_>) -> Option<String> {
    let value = root.required(
        "realm",
        "the name that clients know the relay by, mostly its host name: turn.example.org",
    )?;
    let text = value.filled_text()?;
    let allowed = |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.len() > LONGEST_REALM || !text.bytes().all(allowed) || text.trim() != text {
        value.unexpected(format_args!(
            "at most {LONGEST_REALM} printable ASCII characters without quotation marks, backslashes and \
             spaces at the ends, such as a host name"
        ));
        return None;
    }
    Some(text.to_owned())
}

/// `secrets`, then the lines of `secrets_file`.
fn secrets(root: &Section<'_>) -> Vec<Secret<String>> {
    const REMEDY: &str = "without one, everybody could relay through this host; make one with `openssl rand \
                          -base64 32`, and give it to the homeserver, in Synapse as `turn_shared_secret`";
    let list = root.get("secrets");
    let file = root.get("secrets_file");
    if list.is_none() && file.is_none() {
        root.error(format_args!(
            "neither `secrets` nor `secrets_file` is there ({REMEDY})"
        ));
    }
    let mut secrets: Vec<Secret<String>> = Vec::new();
    let mut add = |text: &str, report: &dyn Fn(Severity, String)| {
        if secrets.iter().any(|known| known.expose() == text) {
            report(
                Severity::Warning,
                "this secret is in the list already".to_owned(),
            );
            return;
        }
        if text.len() < SHORT_SECRET {
            report(
                Severity::Warning,
                format!(
                    "this secret has fewer than {SHORT_SECRET} characters: whoever sees one credential can \
                     find it by trying (make one: openssl rand -base64 32)"
                ),
            );
        }
        if secrets.len() == MOST_SECRETS {
            report(
                Severity::Error,
                format!(
                    "more than {MOST_SECRETS} secrets (remove those that no homeserver signs with any more)"
                ),
            );
        }
        secrets.push(Secret::new(text.to_owned()));
    };
    if let Some(list) = &list {
        if list.is_empty() && file.is_none() {
            list.error(format_args!(
                "found an empty list, expected at least one secret ({REMEDY})"
            ));
        }
        for item in list.one_or_more() {
            let item = item.hidden();
            if let Some(text) = item.filled_text() {
                add(text.trim(), &|severity, problem| match severity {
                    Severity::Warning => item.warning(problem),
                    Severity::Failing | Severity::Error => item.error(problem),
                });
            }
        }
    }
    if let Some(file) = file.as_ref().and_then(KeyFile::read) {
        let Ok(text) = std::str::from_utf8(file.content()) else {
            file.error("is not text (one secret a line)");
            return secrets;
        };
        let lines = text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let mut has_any = false;
        for (number, line) in lines {
            has_any = true;
            add(line, &|severity, problem| {
                let problem = format!("line {number}: {problem}");
                match severity {
                    Severity::Warning => file.warning(problem),
                    Severity::Failing | Severity::Error => file.error(problem),
                }
            });
        }
        if !has_any {
            file.error(format_args!("has no secret in it ({REMEDY})"));
        }
    }
    secrets
}

fn tls(value: &Value<'_>, hosts: &[String], has_dtls: bool, now: SystemTime) -> Option<Tls> {
    let section = value.section();
    let certificate = section.required(
        "certificate",
        "a PEM file with the certificate and the chain above it, mostly called fullchain.pem",
    );
    let key = section.required("key", "the PEM file with the certificate's private key");
    section.finish(Severity::Error);
    let (certificate, key) = (certificate?, key?);
    let certificate = KeyFile::read_public(&certificate);
    let key = KeyFile::read(&key);
    let (certificate, key) = (certificate?, key?);
    let identity = match Identity::of_pem(certificate.content(), key.content()) {
        Ok(identity) => identity,
        Err(Unusable::Certificate(problem)) => {
            certificate.error(problem);
            return None;
        }
        Err(Unusable::Key(problem)) => {
            key.error(problem);
            return None;
        }
    };
    check_validity(&certificate, &identity, now);
    if has_dtls {
        check_dtls(&certificate, &key, &identity);
    }
    for host in hosts.iter().filter(|host| !identity.is_for(host)) {
        certificate.warning(format_args!(
            "the certificate is for {}, and clients are told to connect to {host}: they will refuse it \
             (get one for that name, or change `credentials.uris`)",
            identity.names()
        ));
    }
    Some(Tls {
        certificate: PathBuf::from(certificate.name()),
        key: PathBuf::from(key.name()),
        identity: Arc::new(identity),
    })
}

/// Whether DTLS clients can be shown the certificate.
#[cfg(feature = "dtls")]
fn check_dtls(certificate: &KeyFile<'_, '_>, key: &KeyFile<'_, '_>, identity: &Identity) {
    if let Err(problem) = identity.dtls_config() {
        key.error(problem);
    } else if identity.has_chain() {
        certificate.warning(
            "clients that connect over DTLS are sent the certificate without the chain above it: those that check \
             it have to know who signed it (give them that certificate, or take one that an authority of \
             your own has signed)",
        );
    }
}

/// Nothing is said of certificates where there is no DTLS at all.
#[cfg(not(feature = "dtls"))]
const fn check_dtls(_: &KeyFile<'_, '_>, _: &KeyFile<'_, '_>, _: &Identity) {}

fn check_validity(file: &KeyFile<'_, '_>, identity: &Identity, now: SystemTime) {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
    let left = identity.not_after().saturating_sub(now);
    let soon = i64::try_from(EXPIRES_SOON.as_secs()).unwrap_or(i64::MAX);
    let ends = identity.ends();
    if left <= 0 {
        file.failing(format_args!(
            "the certificate EXPIRED on {ends}: no client connects over TLS until it is replaced (renew it; \
             the relay reads the file again by itself)"
        ));
    } else if left < soon {
        file.warning(format_args!(
            "the certificate expires on {ends}, in {} days (does its renewal work?)",
            left / (24 * 60 * 60)
        ));
    }
    if identity.not_before() > now {
        file.failing(format_args!(
            "the certificate is not valid yet: no client connects over TLS (is this machine's clock right?)"
        ));
    }
}

/// The hosts that clients are told to connect to over TLS. Without the credential service it is the
/// homeserver that tells them, and nothing is known here.
fn hosts_of_tls(credentials: &Credentials) -> Vec<String> {
    let mut hosts: Vec<_> = credentials
        .uris
        .iter()
        .filter(|_| credentials.is_used())
        .filter_map(|uri| uri.strip_prefix("turns:"))
        .filter_map(|rest| Some(credentials::parse_host(rest)?.0.to_owned()))
        .collect();
    hosts.dedup();
    hosts
}

fn quotas(section: &Section<'_>) -> Quotas {
    let defaults = Quotas::default();
    let small = |key, default| {
        section
            .get(key)
            .and_then(|value| value.integer(1..=1_000_000))
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(default)
    };
    let count = |key, most, default| {
        section
            .get(key)
            .and_then(|value| value.count(1..=most))
            .unwrap_or(default)
    };
    let quotas = Quotas {
        allocations_per_user: small("allocations_per_user", defaults.allocations_per_user),
        allocations_total: small("allocations_total", defaults.allocations_total),
        permissions_per_allocation: count(
            "permissions_per_allocation",
            4096,
            defaults.permissions_per_allocation,
        ),
        channels_per_allocation: count(
            "channels_per_allocation",
            4096,
            defaults.channels_per_allocation,
        ),
        bandwidth_per_user: section
            .get("bandwidth_per_user")
            .and_then(|value| value.size(1000..=1 << 40)),
        unauthenticated_per_prefix: small(
            "unauthenticated_per_prefix",
            defaults.unauthenticated_per_prefix,
        ),
        connections_per_prefix: count(
            "connections_per_prefix",
            1_000_000,
            defaults.connections_per_prefix,
        ),
        https_connections: count("https_connections", 1_000_000, defaults.https_connections),
        https_connections_per_prefix: count(
            "https_connections_per_prefix",
            1_000_000,
            defaults.https_connections_per_prefix,
        ),
        tcp_buffer: section
            .get("tcp_buffer")
            // one ChannelData message has up to 65,539 bytes
            .and_then(|value| value.size(128 * 1024..=64 << 20))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(defaults.tcp_buffer),
    };
    section.finish(Severity::Error);
    quotas
}

fn lifetime(section: &Section<'_>) -> Lifetime {
    const LONGEST: Duration = Duration::from_hours(24);
    let defaults = Lifetime::default();
    let seconds = || Duration::from_secs(1)..=LONGEST;
    let lifetime = Lifetime {
        default: whole_seconds(section, "default", seconds(), defaults.default),
        max: whole_seconds(section, "max", seconds(), defaults.max),
    };
    if lifetime.max < lifetime.default {
        let (key, value) = match (section.get("max"), section.get("default")) {
            (Some(value), _) => ("max", value),
            (None, Some(value)) => ("default", value),
            (None, None) => return defaults,
        };
        value.error(match key {
            "max" => format!(
                "is less than `lifetime.default` ({} s): set both",
                lifetime.default.as_secs()
            ),
            _ => format!(
                "is more than `lifetime.max` ({} s): set both",
                lifetime.max.as_secs()
            ),
        });
    } else if lifetime.max > defaults.max
        && let Some(value) = section.get("max")
    {
        value.warning(
            "RFC 8656 recommends an hour at the most: a client that vanishes keeps its port until then",
        );
    }
    section.finish(Severity::Error);
    lifetime
}

fn timeouts(section: &Section<'_>) -> Timeouts {
    let defaults = Timeouts::default();
    let range = |longest| Duration::from_secs(1)..=longest;
    let five = Duration::from_mins(5);
    let timeouts = Timeouts {
        tls_handshake: duration(
            section,
            "tls_handshake",
            range(five),
            defaults.tls_handshake,
        ),
        first_request: duration(
            section,
            "first_request",
            range(five),
            defaults.first_request,
        ),
        idle: duration(
            section,
            "idle",
            range(Duration::from_hours(1)),
            defaults.idle,
        ),
        https_idle: duration(
            section,
            "https_idle",
            range(Duration::from_hours(24)),
            defaults.https_idle,
        ),
    };
    section.finish(Severity::Error);
    timeouts
}

fn workers(root: &Section<'_>) -> Option<NonZeroUsize> {
    let value = root.get("workers")?;
    match value.meaning() {
        Some((Scalar::Text, "auto")) => None,
        Some((Scalar::Integer(Some(number)), _)) if (1..=255).contains(&number) => {
            usize::try_from(number).ok().and_then(NonZeroUsize::new)
        }
        _ => {
            value.unexpected("`auto`, or a whole number from 1 to 255");
            None
        }
    }
}

fn log(section: &Section<'_>) -> Log {
    let log = Log::read(section, "turn_relay");
    section.finish(Severity::Error);
    log
}

/// A duration with its default.
pub(super) fn duration(
    section: &Section<'_>,
    key: &'static str,
    range: RangeInclusive<Duration>,
    default: Duration,
) -> Duration {
    section
        .get(key)
        .and_then(|value| value.duration(range))
        .unwrap_or(default)
}

/// As [`duration`], for what goes over the wire in seconds.
fn whole_seconds(
    section: &Section<'_>,
    key: &'static str,
    range: RangeInclusive<Duration>,
    default: Duration,
) -> Duration {
    let Some(value) = section.get(key) else {
        return default;
    };
    let Some(duration) = value.duration(range) else {
        return default;
    };
    if duration.subsec_nanos() > 0 {
        value.unexpected("a duration of whole seconds");
    }
    duration
}
