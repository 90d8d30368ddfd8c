//! From a file to a [`Config`].

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use shared::{
    address_policy::AddressPolicy,
    environment::Environment,
    secret::Secret,
    yaml::{Diagnostics, Node, Scalar, Section, Severity, Value, Variables},
};
use url::Url;

use super::{Config, Glob, Limits, Log, app, keys};
use crate::sealed::pushkey::{PushkeyKeys, SameId};

/// What reading a file gave.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, when there is no error.
    pub config: Option<Config>,
    /// What should be looked at but stops nothing, in the order of the file.
    pub warnings: Vec<String>,
    /// What makes every push of one app fail; the others go on.
    pub failing: Vec<String>,
    /// What must be mended, all of it, in the order of the file.
    pub errors: Vec<String>,
    /// Which environment variables had a say, if any had: a line for people.
    pub from_environment: Option<String>,
}

/// The keys that environment variables can have. An app ID has dots in it, which no variable's name can have.
pub const VARIABLES: Variables = Variables {
    prefix: "NOCTURNE_PUSH__",
    whole: &["apps"],
    files: &[],
};

/// Reads `path`, the [`VARIABLES`] of `environment`, and everything that they name. Certificates are judged
/// by `now`.
#[must_use]
pub fn load(path: &Path, environment: &Environment, now: SystemTime) -> Loaded {
    let diagnostics = Diagnostics::new(path.display().to_string());
    let config = VARIABLES
        .read(path, environment, &diagnostics)
        .map(|node| config_of(&node, path, environment, now, &diagnostics));
    Loaded {
        from_environment: VARIABLES.note(path, environment),
        ..finish(config, &diagnostics)
    }
}

/// Where a gateway with this configuration listens, whatever else may be wrong with it.
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
        listen(&root.section("http"))
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
    Some(config_of(&node, path, environment, now, diagnostics))
}

fn config_of(
    node: &Node,
    path: &Path,
    environment: &Environment,
    now: SystemTime,
    diagnostics: &Diagnostics,
) -> Config {
    let root = Value::root(node, diagnostics).section();

    let listen = listen(&root.section("http"));
    let metrics_listen = metrics(&root.section("metrics"), &listen);
    let config = Config {
        path: path.to_owned(),
        listen,
        metrics_listen,
        proxy: proxy(&root, environment, diagnostics),
        no_proxy: either_case(environment, "NO_PROXY", "no_proxy")
            .map(|(_, value)| value.to_owned()),
        apps: apps(&root, now, diagnostics),
        pushkey_keys: pushkey_keys(&root),
        limits: limits(&root.section("limits")),
        outbound: outbound(&root.section("outbound")),
        log: log(&root.section("log")),
    };
    for key in ["db", "database"] {
        if let Some(value) = root.ignored(key) {
            value.warning("ignored: the gateway stores nothing (remove it)");
        }
    }
    root.finish(Severity::Warning);
    config
}

fn listen(http: &Section<'_>) -> Vec<SocketAddr> {
    let port = http
        .get("port")
        .and_then(|port| port.integer(0..=65_535))
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(5000);
    let addresses = http.get("bind_addresses").map_or_else(
        || vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        |list| {
            let mut addresses = Vec::new();
            for item in list.one_or_more() {
                let Some(address) = address(&item) else {
                    continue;
                };
                if addresses.contains(&address) {
                    item.warning(format_args!("{address} is in the list already"));
                } else {
                    addresses.push(address);
                }
            }
            if list.is_empty() {
                list.error("found an empty list, expected at least one address to listen on");
            }
            addresses
        },
    );
    http.finish(Severity::Warning);
    addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .collect()
}

/// An address to listen on. Twisted, which Sygnal listens with, takes nothing for every IPv4 address.
fn address(value: &Value<'_>) -> Option<IpAddr> {
    let text = value.text()?.trim();
    match text {
        "" | "*" => return Some(Ipv4Addr::UNSPECIFIED.into()),
        "localhost" => return Some(Ipv4Addr::LOCALHOST.into()),
        _ => {}
    }
    let without_brackets = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address = without_brackets.parse().ok();
    if address.is_none() {
        value.unexpected(
            "an IP address of this host, without a port (127.0.0.1, 0.0.0.0, \"::1\", \"::\")",
        );
    }
    address
}

fn metrics(metrics: &Section<'_>, listen: &[SocketAddr]) -> Option<SocketAddr> {
    let prometheus = metrics.section("prometheus");
    let enabled = flag(&prometheus, "enabled", false);
    let ip = prometheus
        .get("address")
        .map_or(Some(Ipv4Addr::LOCALHOST.into()), |value| address(&value));
    let port = prometheus
        .get("port")
        .map_or(Some(8000), |port| port.integer(0..=65_535))
        .and_then(|port| u16::try_from(port).ok());
    prometheus.finish(Severity::Warning);

    for (name, sends) in [
        ("opentracing", "event IDs"),
        ("sentry", "log lines with identifiers"),
    ] {
        // What else is in there configures what does not exist here, and may hold a secret.
        let Some(section) = metrics.ignored(name) else {
            continue;
        };
        if flag(&section.section(), "enabled", false) {
            section.warning(format_args!(
                "not supported, ignored: it would send {sends} to another service \
                 (set `enabled: false`)"
            ));
        }
    }
    metrics.finish(Severity::Warning);

    let address = SocketAddr::new(ip?, port?);
    let clash = |other: &&SocketAddr| {
        other.port() == address.port()
            && address.port() != 0
            && other.is_ipv4() == address.is_ipv4()
            && (other.ip() == address.ip()
                || other.ip().is_unspecified()
                || address.ip().is_unspecified())
    };
    if enabled && let Some(other) = listen.iter().find(clash) {
        prometheus.error(format_args!(
            "cannot listen on {address}, since `http` listens on {other} (choose another port)"
        ));
    }
    enabled.then_some(address)
}

/// The proxy's URL holds a password: no message shows any of it but a scheme that is well known.
fn proxy(
    root: &Section<'_>,
    environment: &Environment,
    diagnostics: &Diagnostics,
) -> Option<Secret<String>> {
    if let Some(value) = root.get("proxy") {
        let value = value.hidden();
        let text = value.text()?;
        if let Err(problem) = check_proxy(text) {
            value.error(problem);
        }
        return Some(Secret::new(text.to_owned()));
    }
    let (name, text) = either_case(environment, "HTTPS_PROXY", "https_proxy")?;
    if let Err(problem) = check_proxy(text) {
        diagnostics.report(
            Severity::Error,
            0,
            &format!("environment variable {name}"),
            problem,
        );
    }
    Some(Secret::new(text.to_owned()))
}

fn check_proxy(text: &str) -> Result<(), String> {
    const EXPECTED: &str = "expected `http://[user:password@]host[:port]`";
    let Ok(url) = Url::parse(text) else {
        return Err(format!(
            "found something that is not a URL, {EXPECTED} \
             (characters other than letters and digits in the password as %XX)"
        ));
    };
    // The parser also takes `http:host`, which the HTTP client does not.
    let begins = text
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
    match url.scheme() {
        "http" if begins && url.host_str().is_some_and(|host| !host.is_empty()) => Ok(()),
        "http" if begins => Err(format!("found a URL without a host, {EXPECTED}")),
        scheme @ ("https" | "socks4" | "socks5" | "socks5h") => Err(format!(
            "found a URL with `{scheme}://`, {EXPECTED} \
             (connections to providers are encrypted from end to end through it)"
        )),
        _ => Err(format!(
            "found a URL that does not start with `http://`, {EXPECTED}"
        )),
    }
}

/// A variable that programs know in upper and lower case, with the name that is set.
fn either_case<'e>(
    environment: &'e Environment,
    upper: &'static str,
    lower: &'static str,
) -> Option<(&'static str, &'e str)> {
    [upper, lower]
        .into_iter()
        .find_map(|name| Some((name, environment.get(name)?)))
}

fn apps(root: &Section<'_>, now: SystemTime, diagnostics: &Diagnostics) -> Vec<super::App> {
    const NONE: &str = "No app IDs are configured (add at least one entry to `apps`: the app ID that \
                        clients register with, and its `type`)";
    let Some(value) = root.get("apps") else {
        diagnostics.report(Severity::Error, 0, "apps", NONE);
        return Vec::new();
    };
    let entries = value.entries();
    if value.is_empty() {
        value.error(NONE);
    }
    let mut apps = Vec::new();
    let mut globs: Vec<(Glob, String)> = Vec::new();
    for (id, value) in &entries {
        app_id(id, value, &mut globs);
        apps.extend(app::read(id, value, now));
    }
    apps
}

/// What Sygnal tolerates in an app ID although it surprises.
fn app_id<'a>(id: &'a str, value: &Value<'a>, globs: &mut Vec<(Glob, String)>) {
    const LONGEST: usize = 64;
    let length = id.chars().count();
    if length > LONGEST {
        value.warning(format_args!(
            "this app ID has {length} characters: homeservers allow at most {LONGEST}"
        ));
    }
    if !id.contains(['*', '?']) {
        return;
    }
    let glob = Glob::new(id);
    for (other, place) in &*globs {
        if glob.overlaps(other) {
            value.warning(format_args!(
                "overlaps with {:?} {place}: pushkeys of app IDs that match both are \
                 rejected (make one of them narrower)",
                other.as_str()
            ));
        }
    }
    globs.push((glob, value.place()));
}

fn limits(limits: &Section<'_>) -> Limits {
    let defaults = Limits::default();
    let read = Limits {
        max_body: limits
            .get("max_body")
            .and_then(|value| value.size(1024..=1 << 30))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(defaults.max_body),
        request_budget: limits
            .get("request_budget")
            .and_then(|value| {
                let budget = value.duration(Duration::from_secs(1)..=Duration::from_hours(1))?;
                if budget >= Duration::from_mins(1) {
                    value.warning(
                        "homeservers give up after 60s and send the notification again \
                         (choose less)",
                    );
                }
                Some(budget)
            })
            .unwrap_or(defaults.request_budget),
        per_pushkey_per_minute: rate(
            limits,
            "per_pushkey_per_minute",
            defaults.per_pushkey_per_minute,
        ),
        per_source_per_second: rate(
            limits,
            "per_source_per_second",
            defaults.per_source_per_second,
        ),
    };
    limits.finish(Severity::Warning);
    read
}

/// A number, or `off`, which is a boolean in YAML 1.1.
fn rate(limits: &Section<'_>, key: &'static str, default: Option<u32>) -> Option<u32> {
    let Some(value) = limits.get(key) else {
        return default;
    };
    match value.meaning() {
        Some((Scalar::Boolean(false), _) | (Scalar::Text, "off")) => None,
        Some((Scalar::Integer(Some(number)), _))
            if (1..=i128::from(u32::MAX)).contains(&number) =>
        {
            u32::try_from(number).ok()
        }
        _ => {
            value.unexpected("a whole number of at least 1, or `off`");
            default
        }
    }
}

fn outbound(outbound: &Section<'_>) -> AddressPolicy {
    let policy = AddressPolicy {
        allow: outbound.networks("allow_private"),
        deny: outbound.networks("deny"),
    };
    outbound.finish(Severity::Warning);
    policy
}

fn log(log: &Section<'_>) -> Log {
    let setup = log.ignored("setup");
    let access = log.ignored("access");
    if let Some(value) = setup.or(access) {
        value.warning(
            "Sygnal's `log.setup` and `log.access` are ignored: use `log.level` and `log.format`; \
             requests are not logged",
        );
    }
    let read = Log::read(log, "push_gateway");
    log.finish(Severity::Warning);
    read
}

fn pushkey_keys(root: &Section<'_>) -> Arc<PushkeyKeys> {
    let Some(list) = root.get("pushkey_keys") else {
        return Arc::default();
    };
    let files = list.one_or_more();
    let (files, keys): (Vec<_>, Vec<_>) = files
        .iter()
        .filter_map(|file| Some((file, keys::pushkey_key(file)?)))
        .unzip();
    match PushkeyKeys::new(keys) {
        Ok(keys) => Arc::new(keys),
        Err(SameId { id, first, second }) => {
            let name = |index: usize| files.get(index).and_then(|file| file.text());
            if let (Some(file), Some(other)) = (files.get(second), name(first)) {
                file.error(format_args!(
                    "has the key ID {id}, as has {other:?}: a sealed pushkey would not say which of them it \
                     is for (list each key once; make another one: nocturne keygen FILE)"
                ));
            }
            Arc::default()
        }
    }
}

/// A boolean with its default.
pub(super) fn flag(section: &Section<'_>, key: &'static str, default: bool) -> bool {
    section
        .get(key)
        .and_then(|value| value.boolean())
        .unwrap_or(default)
}
