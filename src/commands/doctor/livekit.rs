//! Whether LiveKit sends its clients to this relay, and not to Google's and Twilio's STUN servers.
//!
//! Keys: <https://github.com/livekit/livekit/blob/master/config-sample.yaml>.

use std::{
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
};

use shared::{
    secret::Secret,
    yaml::{self, Diagnostics, Section, Value},
};
use turn_relay::config::Config;
use turn_relay_proto::credential::{RestUsername, Secrets};

use super::{
    Context,
    finding::{Finding, Topic},
    places,
};
use crate::commands::turn_uri::{Transport, Uri, bare};

const TOPIC: Topic = Topic::LiveKit;
/// Larger than any file with a secret in it.
const MAX_SECRET: u64 = 64 * 1024;

/// Whose STUN servers LiveKit takes where its configuration names none.
const STRANGERS: [&str; 2] = ["google.com", "twilio.com"];

const SEEN: &str =
    "LiveKit sends clients where they get no relay, and calls through strict networks fail";

pub(super) fn examine(context: &Context) -> Vec<Finding> {
    let Some(path) = &context.livekit else {
        return vec![Finding::skipped(
            TOPIC,
            "LiveKit",
            "not looked at",
            "nothing, if there is none; else name its configuration with --livekit FILE",
        )];
    };
    let subject = path.display().to_string();
    let diagnostics = Diagnostics::new(&subject);
    let text = yaml::read(path, &diagnostics);
    let node = text.and_then(|text| yaml::parse(&text, &diagnostics));
    let Some(node) = node else {
        let problems = diagnostics.of(yaml::Severity::Error).join("; ");
        return vec![Finding::failure(
            TOPIC,
            subject,
            format!("cannot be read: {problems}"),
            "nothing can be said of where LiveKit sends its clients",
            "name LiveKit's own configuration, and run doctor as a user who may read it",
        )];
    };
    let root = Value::root(&node, &diagnostics).section();
    let rtc = root.section("rtc");
    let turn = root.section("turn");
    let servers = rtc
        .get("turn_servers")
        .map_or_else(Vec::new, |value| value.one_or_more());
    let stun: Vec<_> = rtc
        .get("stun_servers")
        .map_or_else(Vec::new, |value| value.one_or_more())
        .iter()
        .filter_map(Value::text)
        .map(str::to_owned)
        .collect();
    let of_its_own = turn.get("enabled").and_then(|value| value.boolean()) == Some(true);
    let mut findings = Vec::new();
    match &context.turn {
        Some(config) => {
            let found: Vec<_> = servers
                .iter()
                .filter_map(|server| Entry::of(&server.section(), path))
                .filter(|entry| is_ours(entry, config, context))
                .collect();
            if found.is_empty() {
                findings.push(unnamed(&subject, config, of_its_own));
            }
            for entry in &found {
                findings.push(entry.judge(&subject, config, context.clock.unix_seconds()));
            }
        }
        None => findings.extend(context.without_turn(TOPIC)),
    }
    findings.push(stun_servers(
        &subject,
        &stun,
        !servers.is_empty(),
        embedded_udp(&turn, of_its_own),
        rtc.get("use_external_ip").and_then(|value| value.boolean()) == Some(true),
    ));
    if of_its_own {
        findings.push(embedded(&subject, &turn, context));
    }
    findings
}

/// One of `rtc.turn_servers`. There is no `Debug`: it has secrets.
struct Entry {
    host: String,
    port: u16,
    protocol: String,
    proof: Proof,
}

enum Proof {
    Secret(String),
    /// `secret_file` that cannot be read: where, and why.
    Unreadable(PathBuf, String),
    Fixed {
        username: String,
        password: String,
    },
    None,
}

impl Entry {
    fn of(section: &Section<'_>, file: &Path) -> Option<Self> {
        let text = |key| {
            let value = section.get(key)?.hidden();
            value.text().map(str::to_owned)
        };
        let proof = if let Some(secret) = text("secret") {
            Proof::Secret(secret)
        } else if let Some(path) = text("secret_file") {
            let path = match file.parent() {
                Some(folder) if !Path::new(&path).exists() => folder.join(path),
                _ => PathBuf::from(path),
            };
            match read(&path) {
                Ok(secret) => Proof::Secret(secret),
                Err(problem) => Proof::Unreadable(path, problem),
            }
        } else if let (Some(username), Some(password)) = (text("username"), text("credential")) {
            Proof::Fixed { username, password }
        } else {
            Proof::None
        };
        Some(Self {
            host: text("host")?,
            port: section
                .get("port")
                .and_then(|value| value.integer(1..=65_535))
                .and_then(|port| u16::try_from(port).ok())?,
            protocol: text("protocol").unwrap_or_default(),
            proof,
        })
    }

    fn place(&self) -> String {
        format!("{}:{}, {}", self.host, self.port, self.protocol)
    }

    fn judge(&self, file: &str, config: &Config, now: u64) -> Finding {
        let subject = format!("{file}, rtc.turn_servers ({})", self.place());
        let newest = || {
            format!(
                "write the first of `secrets` in {} there as `secret`, and restart LiveKit",
                config.path.display()
            )
        };
        let failure =
            |what: String, remedy: String| Finding::failure(TOPIC, &subject, what, SEEN, remedy);
        match &self.proof {
            Proof::Secret(secret) => {
                let known = config.secrets.iter();
                match known.map(Secret::expose).position(|known| known == secret) {
                    Some(0) => Finding::good(TOPIC, subject, "names this relay, with its secret"),
                    Some(_) => Finding::warning(
                        TOPIC,
                        subject,
                        "names this relay with a secret that is not the newest",
                        "once that one is taken out of the list, LiveKit's clients get no relay",
                        newest(),
                    ),
                    None => failure(
                        "names this relay with another secret than its own".to_owned(),
                        newest(),
                    ),
                }
            }
            Proof::Unreadable(path, problem) => Finding::warning(
                TOPIC,
                subject,
                format!("`secret_file` {} cannot be read: {problem}", path.display()),
                "whether LiveKit has this relay's secret is not known",
                "run doctor as a user who may read it",
            ),
            Proof::Fixed { username, password } => fixed(username, password, config, now)
                .map_or_else(
                    || {
                        Finding::warning(
                            TOPIC,
                            &subject,
                            "names this relay with a fixed username that is good now",
                            "all clients of LiveKit share it, with one quota, and from its expiry on none gets a relay",
                            newest(),
                        )
                    },
                    |problem| failure(problem.to_owned(), newest()),
                ),
            Proof::None => failure("names this relay without a secret".to_owned(), newest()),
        }
    }
}

/// What is wrong with a fixed username and its password.
fn fixed(username: &str, password: &str, config: &Config, now: u64) -> Option<&'static str> {
    let Some(parsed) = RestUsername::parse(username.as_bytes()) else {
        return Some(
            "names this relay with a fixed username, which it does not know: it knows none",
        );
    };
    let is_signed = config.secrets.iter().any(|secret| {
        let secrets = Secrets::new(vec![secret.expose().as_bytes().to_vec()]);
        secrets.password(username.as_bytes()).as_str() == password
    });
    match (is_signed, parsed.expiry > now) {
        (false, _) => Some("names this relay with a fixed username that another secret signed"),
        (true, false) => Some("names this relay with a fixed username that is expired"),
        (true, true) => None,
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET).read_to_string(&mut text))
        .map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}

/// Whether clients of this entry come to the relay of this configuration.
fn is_ours(entry: &Entry, config: &Config, context: &Context) -> bool {
    let host = bare(&entry.host).to_ascii_lowercase();
    let uris = places::handed_out(config);
    let known = uris.iter().filter_map(|text| Uri::parse(text)).any(|uri| {
        let protocol = match uri.transport {
            Transport::Tls => "tls",
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        uri.bare_host().eq_ignore_ascii_case(&host)
            && uri.port == entry.port
            && protocol == entry.protocol
    });
    let listen = match entry.protocol.as_str() {
        "udp" => &config.listen.udp,
        "tcp" => &config.listen.tcp,
        "tls" => &config.listen.tls,
        _ => return known,
    };
    let names: Vec<_> = places::hosts(config)
        .into_iter()
        .chain([config.realm.clone()])
        .collect();
    let is_name = names.iter().any(|name| name.eq_ignore_ascii_case(&host));
    let is_address = host
        .parse::<IpAddr>()
        .is_ok_and(|address| places::advertised(context).contains(&address));
    let is_port = listen.iter().any(|listener| listener.port() == entry.port);
    known || ((is_name || is_address) && is_port)
}

fn unnamed(file: &str, config: &Config, of_its_own: bool) -> Finding {
    let subject = format!("{file}, rtc.turn_servers");
    let what = "does not name this relay, with a host, port and protocol at which it listens";
    let remedy = "paste what SETUP.md of `nocturne init` has under LiveKit, and restart LiveKit";
    if of_its_own {
        return Finding::warning(
            TOPIC,
            subject,
            format!("{what}; LiveKit's own relay (`turn.enabled`) is used instead"),
            format!("{} is not used in calls of LiveKit", config.realm),
            format!("if that is not meant so: {remedy}"),
        );
    }
    Finding::failure(TOPIC, subject, what, SEEN, remedy)
}

/// LiveKit's own relay counts as a STUN server, too, if it has UDP.
fn embedded_udp(turn: &Section<'_>, is_on: bool) -> bool {
    let port = turn
        .get("udp_port")
        .and_then(|value| value.integer(0..=65_535));
    is_on && port.is_some_and(|port| port != 0)
}

fn stun_servers(
    file: &str,
    stun: &[String],
    has_turn: bool,
    has_own: bool,
    asks_itself: bool,
) -> Finding {
    let subject = format!("{file}, rtc.stun_servers");
    let remedy = "set `rtc.stun_servers` to this relay's host and UDP port, as SETUP.md has it, and restart LiveKit";
    let is_strange = |server: &&String| {
        let host = server
            .rsplit_once(':')
            .map_or(server.as_str(), |(host, _)| host);
        STRANGERS
            .iter()
            .any(|stranger| host.to_ascii_lowercase().ends_with(stranger))
    };
    if let Some(server) = stun.iter().find(is_strange) {
        return Finding::failure(
            TOPIC,
            subject,
            format!("names {server}"),
            "its owner sees the address of everybody in a call",
            remedy,
        );
    }
    if !stun.is_empty() {
        return Finding::good(TOPIC, subject, format!("names {}", stun.join(" and ")));
    }
    if !has_turn && !has_own {
        return Finding::failure(
            TOPIC,
            subject,
            "not set, and there are no `rtc.turn_servers`: LiveKit then sends every client to \
             global.stun.twilio.com and stun.l.google.com",
            "Twilio and Google see the address of everybody in a call",
            remedy,
        );
    }
    if asks_itself {
        return Finding::warning(
            TOPIC,
            subject,
            "not set, while `rtc.use_external_ip` is on: LiveKit itself asks Google's and Twilio's STUN servers",
            "they see the server's address; clients are not sent there, since they have other servers",
            remedy,
        );
    }
    Finding::good(
        TOPIC,
        subject,
        "not set, and not needed: with TURN servers of its own LiveKit sends nobody to Google and Twilio",
    )
}

/// LiveKit's own relay is no harm, unless it takes this one's ports.
fn embedded(file: &str, turn: &Section<'_>, context: &Context) -> Finding {
    let subject = format!("{file}, turn");
    let port = |key| {
        let value = turn.get(key)?;
        u16::try_from(value.integer(0..=65_535)?)
            .ok()
            .filter(|port| *port != 0)
    };
    let listen = context.turn.as_ref().map(|config| &config.listen);
    let has = |list: &[std::net::SocketAddr], port: u16| {
        list.iter().any(|listener| listener.port() == port)
    };
    let clash = listen.and_then(|listen| {
        let udp = port("udp_port").filter(|port| has(&listen.udp, *port));
        let tls =
            port("tls_port").filter(|port| has(&listen.tls, *port) || has(&listen.tcp, *port));
        udp.or(tls)
    });
    match clash {
        Some(port) => Finding::warning(
            TOPIC,
            subject,
            format!("LiveKit's own relay is on, and wants port {port}, as this one does"),
            "on one machine only one of them can have it",
            "set `turn.enabled: false` in LiveKit's configuration, or give one of them another port",
        ),
        None => Finding::good(
            TOPIC,
            subject,
            "LiveKit's own relay is on as well: its clients are told of both",
        ),
    }
}
