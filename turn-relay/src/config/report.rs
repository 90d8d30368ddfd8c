//! What reading a configuration gave, as lines for people.

use std::{net::SocketAddr, path::Path};

use ipnet::IpNet;
use turn_relay_proto::config::RelayAddress;

use super::{Config, Loaded, Relay};
use crate::addresses::{self, NoAddress};

/// A report on one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Lines for people, with a last one that says how it went.
    pub text: String,
    /// Whether there is nothing that must be mended.
    pub sound: bool,
}

/// Errors, warnings, what the relay will do, and what it will tell clients on this machine.
#[must_use]
pub fn report(path: &Path, loaded: &Loaded) -> Report {
    report_with(path, loaded, addresses::find)
}

pub(super) fn report_with(
    path: &Path,
    loaded: &Loaded,
    find: impl FnOnce(&Relay) -> Result<Vec<RelayAddress>, NoAddress>,
) -> Report {
    let mut errors: Vec<_> = loaded
        .errors
        .iter()
        .chain(&loaded.failing)
        .cloned()
        .collect();
    let mut warnings = loaded.warnings.clone();
    let mut summary: Vec<_> = loaded.from_environment.iter().cloned().collect();
    if let Some(config) = &loaded.config {
        summary.extend(self::summary(config));
        let place = path.display();
        match find(&config.relay) {
            Ok(addresses) => {
                let told = addresses::told(&addresses, &config.relay);
                summary.push(told.line);
                warnings.extend(told.warning.map(|warning| format!("{place}: {warning}")));
            }
            Err(problem) => errors.push(format!("{place}: {problem}")),
        }
    }
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    let last = format!(
        "{}: {}, {}",
        path.display(),
        count(errors.len(), "error"),
        count(warnings.len(), "warning")
    );
    let sound = errors.is_empty();
    let errors = errors.into_iter().map(|text| format!("error: {text}"));
    let warnings = warnings.into_iter().map(|text| format!("warning: {text}"));
    let lines: Vec<_> = errors
        .chain(warnings)
        .chain(summary)
        .chain([last])
        .collect();
    Report {
        text: lines.join("\n") + "\n",
        sound,
    }
}

/// What the relay will do, in a few lines.
#[must_use]
pub fn summary(config: &Config) -> Vec<String> {
    let listen = &config.listen;
    let lists = [
        ("UDP", &listen.udp),
        ("TCP", &listen.tcp),
        ("TLS", &listen.tls),
        ("DTLS", &listen.dtls),
    ];
    let listeners: Vec<_> = lists
        .into_iter()
        .filter(|(_, addresses)| !addresses.is_empty())
        .map(|(protocol, addresses)| format!("{protocol} on {}", list(addresses)))
        .collect();
    let mut lines = vec![format!(
        "realm {:?}: {}; {}",
        config.realm,
        listeners.join("; "),
        match config.secrets.len() {
            1 => "1 secret".to_owned(),
            count => format!("{count} secrets"),
        }
    )];
    if let Some(tls) = &config.tls {
        lines.push(format!(
            "certificate for {}, until {}",
            tls.identity.names(),
            tls.identity.ends()
        ));
    }
    if let Some(backend) = &listen.https_backend
        && !listen.tls.is_empty()
    {
        let more = if backend.proxy_protocol {
            ", with the client's address before it (PROXY protocol)"
        } else {
            ""
        };
        lines.push(format!(
            "HTTP that comes over TLS goes to {}{more}",
            backend.address
        ));
    }
    lines.push(peers(config));
    lines.extend(credentials(config));
    lines
}

/// Who gets credentials here, if anybody does.
fn credentials(config: &Config) -> Option<String> {
    let credentials = &config.credentials;
    let users = credentials.homeserver.as_ref().map(|url| {
        let whose = if credentials.allow_guests {
            "users and guests"
        } else {
            "users"
        };
        format!("{whose} of {}", url.as_str().trim_end_matches('/'))
    });
    let keys = match credentials.api_keys.len() {
        0 => None,
        1 => Some("whoever has the API key".to_owned()),
        count => Some(format!("whoever has one of {count} API keys")),
    };
    let who: Vec<_> = users.into_iter().chain(keys).collect();
    (!who.is_empty()).then(|| format!("credentials are for {}", who.join(" and for ")))
}

fn peers(config: &Config) -> String {
    let peers = &config.peers;
    let mut line = "clients reach public addresses and other clients of this relay".to_owned();
    if !peers.allow.is_empty() {
        line = format!("{line}, and {}", networks(&peers.allow));
    }
    let ports = match peers.deny_ports.as_slice() {
        [] => None,
        [port] => Some(format!("port {port}")),
        ports => Some(format!("{} ports", ports.len())),
    };
    let denied: Vec<_> = [
        (!peers.deny.is_empty()).then(|| networks(&peers.deny)),
        ports,
    ]
    .into_iter()
    .flatten()
    .collect();
    if !denied.is_empty() {
        line = format!("{line}, but not {}", denied.join(" and "));
    }
    if config.relay.tcp {
        line += "; over UDP, and over TCP (`relay.tcp`)";
    }
    line
}

fn list(addresses: &[SocketAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// The first few.
fn networks(networks: &[IpNet]) -> String {
    const SHOWN: usize = 5;
    let mut texts: Vec<_> = networks
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    if networks.len() > SHOWN {
        texts.push(format!("{} more networks", networks.len() - SHOWN));
    }
    texts.join(", ")
}
