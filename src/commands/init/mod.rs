//! `nocturne init`: from nothing to configurations that start, and a file that says what else is to be done.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io, iter,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::ExitCode,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use rustix::fs::Mode;
use shared::{clock::Clock, environment::Environment, random::Random, secret::Secret};
use turn_relay::{
    addresses,
    certificates::Identity,
    config::{Config, Relay},
};
use url::Url;
use zeroize::Zeroizing;

use super::{block_on_one_thread, failed, say};

mod configuration;
mod find;
mod folder;
mod rotate;
mod setup;
mod units;

use configuration::Tls;
use find::{Homeserver, Host};
use folder::{Folder, PUBLIC, SECRET, Staged, commit};

const PUSH: &str = "push-gateway.yaml";
const TURN: &str = "turn-relay.yaml";
const PUSHKEYS: &str = "pushkeys.key";
const UNIT: &str = "nocturne.service";
const SETUP: &str = "SETUP.md";
const CERTIFICATE: &str = "fullchain.pem";
const KEY: &str = "key.pem";

/// Where a push gateway listens that is not told otherwise.
const PUSH_LISTENS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5000));

/// In the order in which they get their names: what names another comes after it.
const FILES: [&str; 5] = [PUSHKEYS, PUSH, TURN, UNIT, SETUP];

/// Write configurations with fresh secrets, and say what else is to be done
///
/// It finds out by itself what this machine can know: its addresses, what DNS says, where the homeserver is.
/// SETUP.md then has, filled in, what is to be pasted where: DNS, firewall, certificate, systemd, reverse
/// proxy, homeserver, well-known, and what else uses TURN.
///
/// Files that are there stay as they are, and what is missing is written: running it again changes nothing,
/// and is no error. Secrets are never printed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sudo nocturne init --server-name example.org\n  sudo nocturne init --server-name example.org --public-address 203.0.113.7\n  sudo nocturne init --rotate"
)]
pub(crate) struct Arguments {
    /// The homeserver's name: what is after the colon in its users' Matrix IDs.
    #[arg(long, value_name = "NAME", required_unless_present = "rotate", value_parser = server_name)]
    server_name: Option<ServerName>,
    /// The folder to write into; made, for its owner alone, if it is not there.
    #[arg(long, value_name = "DIR", default_value = "/etc/nocturne")]
    out: PathBuf,
    /// The host name that clients reach the relay under [default: turn. and the server's name]
    #[arg(long, value_name = "HOST", value_parser = host_name)]
    turn_host: Option<String>,
    /// The address at which this host is reached from outside, where it has none itself; one of IPv4, of IPv6,
    /// or both.
    #[arg(long, value_name = "ADDRESS")]
    public_address: Vec<IpAddr>,
    /// The homeserver's base URL, for this machine or for everybody: where it is asked whose access tokens
    /// are good.
    #[arg(long, value_name = "URL", value_parser = find::base_url)]
    homeserver: Option<Url>,
    /// Ask nothing of DNS and of the homeserver.
    #[arg(long)]
    offline: bool,
    /// Write files anew that are there. Secrets and keys are kept, and what was in a file is then in
    /// NAME.old, or in NAME.old2 and so on.
    #[arg(long)]
    force: bool,
    /// Put a fresh secret in front of those of turn-relay.yaml, which all go on working, and bring SETUP.md
    /// along.
    #[arg(long, conflicts_with_all = ["force", "turn_host", "public_address", "homeserver", "offline"])]
    rotate: bool,
}

/// A homeserver's name.
#[derive(Clone, Debug)]
struct ServerName {
    /// With the port, if it has one
    name: String,
    /// Without it
    domain: String,
}

/// What goes into a new `turn-relay.yaml`.
struct Found {
    host: String,
    secrets: Vec<Secret<String>>,
    addresses: find::Addresses,
    homeserver: Homeserver,
    certificate: PathBuf,
    key: PathBuf,
    tls: Tls,
}

/// Everything that a run works with.
struct Run<'a> {
    arguments: &'a Arguments,
    server_name: &'a ServerName,
    environment: &'a Environment,
    clock: Clock,
    random: Random,
    /// What was found out and what is left to do, in lines with a first word.
    findings: Vec<(&'static str, String)>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let (clock, random) = (Clock::system(), Random::system());
    let done = match &arguments.server_name {
        _ if arguments.rotate => {
            rotate::rotate(&arguments.out, &random, &clock).map(|rotated| rotated.to_string())
        }
        Some(server_name) => {
            let run = Run {
                arguments,
                server_name,
                environment,
                clock,
                random,
                findings: Vec::new(),
            };
            return block_on_one_thread(async { ended(run.init().await) });
        }
        None => Err("--server-name is missing".to_owned()),
    };
    ended(done)
}

fn ended(done: Result<String, String>) -> ExitCode {
    match done {
        Ok(text) => {
            say(&mut io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(problem) => failed(&problem),
    }
}

impl Run<'_> {
    /// What is said when all went well.
    async fn init(mut self) -> Result<String, String> {
        let out = &self.arguments.out;
        if out.to_str().is_none() {
            return Err(format!(
                "the name {} is not UTF-8, and cannot be written into configurations",
                out.display()
            ));
        }
        // no folder is made as long as something may be missing
        let is_there = out.symlink_metadata().is_ok();
        let folder = is_there.then(|| Folder::open(out)).transpose()?;
        let mut there = Vec::new();
        for name in FILES {
            if let Some(folder) = &folder
                && folder.has(name)?
            {
                there.push(name);
            }
        }
        let writes = |name: &str| self.arguments.force || !there.contains(&name);
        if !FILES.into_iter().any(writes) {
            return Ok(self.nothing_to_do());
        }
        let old = match &folder {
            Some(folder) if there.contains(&TURN) => self.old_configuration(folder)?,
            Some(_) | None => None,
        };
        let mut found = None;
        if writes(TURN) {
            found = Some(self.find_out(old.as_ref()).await?);
        }

        let folder = match folder {
            Some(folder) => folder,
            None => Folder::open_or_make(out)?,
        };
        let mut files = Files::of(&folder);
        let config = match (&found, old) {
            (Some(found), _) => {
                let written = files.write(TURN, &self.turn(found), SECRET)?;
                load(&folder.join(&written), &self.clock)?
            }
            (None, Some(old)) => old,
            (None, None) => return Err(format!("{TURN} was not read")),
        };
        if !there.contains(&PUSHKEYS) {
            let key = Zeroizing::new(self.random.bytes::<32>());
            let text = Zeroizing::new(format!("{}\n", STANDARD.encode(key.as_slice())));
            files.write(PUSHKEYS, &text, SECRET)?;
        }
        if writes(PUSH) {
            let text = configuration::push(&self.server_name.name, &folder.join(PUSHKEYS));
            files.write(PUSH, &text, SECRET)?;
        }
        if writes(UNIT) {
            let listen = &config.listen;
            let ports = listen.udp.iter().chain(&listen.tcp).chain(&listen.tls);
            let text = units::unit(folder.path(), ports.map(SocketAddr::port));
            files.write(UNIT, &text, PUBLIC)?;
        }
        let addresses: Vec<_> = addresses::find(&config.relay)
            .map_err(|problem| format!("{}: {problem}", folder.join(TURN).display()))?
            .iter()
            .map(|address| (address.bind, address.advertised))
            .collect();
        // its secrets are those of the relay's file
        if writes(SETUP) || writes(TURN) {
            let homeserver = match found {
                Some(found) => found.homeserver,
                None => self.homeserver(config.credentials.homeserver.clone()).await,
            };
            let push = if writes(PUSH) {
                PUSH_LISTENS
            } else {
                self.push_listens(&folder)
            };
            let text = setup::text(&setup::Installation {
                folder: folder.path(),
                program: program().as_deref(),
                server_name: &self.server_name.name,
                domain: &self.server_name.domain,
                homeserver: &homeserver,
                turn: &config,
                certificate: &folder.join(CERTIFICATE),
                key: &folder.join(KEY),
                addresses: &addresses,
                push,
            });
            files.write(SETUP, &text, SECRET)?;
        }
        self.look_around(&config, &addresses).await;
        let outcomes = files.commit()?;
        Ok(self.told(&folder, &outcomes))
    }

    /// What a relay's file that is there has. With `--force` it may be one that cannot be read.
    fn old_configuration(&mut self, folder: &Folder) -> Result<Option<Config>, String> {
        match load(&folder.join(TURN), &self.clock) {
            Ok(config) => Ok(Some(config)),
            Err(problem) if self.arguments.force => {
                self.findings.push((
                    "lost",
                    format!("the old secrets, since the file cannot be used; they are in {TURN}.old\n{problem}"),
                ));
                Ok(None)
            }
            Err(problem) => Err(format!(
                "{problem}\nmend it, or have it written anew with --force; nothing was changed"
            )),
        }
    }

    /// Finds out what nobody should have to be asked, keeping what an old file has.
    async fn find_out(&mut self, old: Option<&Config>) -> Result<Found, String> {
        let arguments = self.arguments;
        let kept_host = old
            .map(|old| old.realm.clone())
            .filter(|realm| host_name(realm).is_ok());
        let host = arguments
            .turn_host
            .clone()
            .or(kept_host)
            .unwrap_or_else(|| format!("turn.{}", self.server_name.domain));
        let addresses = self.addresses(old, &host).await?;
        for (local, told) in &addresses.pairs {
            let how = if addresses.from_dns.contains(told) {
                ", as DNS says"
            } else {
                ""
            };
            let line = if local == told {
                format!("this host's address {told}")
            } else {
                format!("this host's address {local}, behind {told}{how}")
            };
            self.findings.push(("found", line));
        }
        for local in &addresses.left_out {
            self.findings.push((
                "left out",
                format!("this host's address {local}, which nobody outside reaches"),
            ));
        }
        let secrets = match old {
            Some(old) => old.secrets.clone(),
            None => vec![configuration::fresh_secret(&self.random)],
        };
        let homeserver = self
            .homeserver(old.and_then(|old| old.credentials.homeserver.clone()))
            .await;
        self.findings
            .push(if homeserver.is_found || homeserver.local.is_some() {
                (
                    "found",
                    format!("the homeserver, at {}", shown(homeserver.nearest())),
                )
            } else {
                (
                    "assumed",
                    format!(
                        "the homeserver is at {}; if it is not: --homeserver URL",
                        shown(homeserver.nearest())
                    ),
                )
            });
        let folder = std::path::absolute(&arguments.out).map_err(|error| error.to_string())?;
        let folder: PathBuf = folder.components().collect();
        let (certificate, key, tls) = match old.and_then(|old| old.tls.as_ref()) {
            Some(tls) => (tls.certificate.clone(), tls.key.clone(), Tls::Ready),
            None => self.certificate(folder.join(CERTIFICATE), folder.join(KEY)),
        };
        Ok(Found {
            host,
            secrets,
            addresses,
            homeserver,
            certificate,
            key,
            tls,
        })
    }

    /// The addresses as they were said, as an old file has them, as this host has them, as DNS has them.
    async fn addresses(
        &self,
        old: Option<&Config>,
        turn_host: &str,
    ) -> Result<find::Addresses, String> {
        let this_host = Host::of_this_machine();
        let said = &self.arguments.public_address;
        let in_file: Vec<_> = old.iter().flat_map(|old| told_in(&old.relay)).collect();
        if said.is_empty()
            && !in_file.is_empty()
            && let Ok(addresses) = find::addresses(&this_host, &in_file, &[], turn_host)
        {
            return Ok(addresses);
        }
        let in_dns = if self.arguments.offline || !said.is_empty() {
            Vec::new()
        } else {
            find::in_dns(turn_host).await
        };
        find::addresses(&this_host, said, &in_dns, turn_host).map_err(|unknown| unknown.to_string())
    }

    /// The homeserver as it was named, as a file has it, as it is found, or as it may be called.
    async fn homeserver(&self, in_file: Option<Url>) -> Homeserver {
        let domain = &self.server_name.domain;
        match self.arguments.homeserver.clone().or(in_file) {
            Some(url) => find::named(url, domain),
            None if self.arguments.offline => find::guessed(domain),
            None => find::homeserver(&self.server_name.name, domain, self.environment).await,
        }
    }

    /// Where the certificate is to be, and whether it is there.
    fn certificate(&mut self, certificate: PathBuf, key: PathBuf) -> (PathBuf, PathBuf, Tls) {
        let tls = match Identity::read(&certificate, &key) {
            Ok(_) => Tls::Ready,
            Err(problem) => {
                if certificate.exists() || key.exists() {
                    self.findings.push((
                        "to do",
                        format!(
                            "{} and {KEY} cannot be used: {problem}",
                            certificate.display()
                        ),
                    ));
                }
                Tls::NotYet
            }
        };
        (certificate, key, tls)
    }

    fn turn(&self, found: &Found) -> Zeroizing<String> {
        configuration::turn(&configuration::Turn {
            server_name: &self.server_name.name,
            host: &found.host,
            secrets: &found.secrets,
            addresses: &found.addresses,
            homeserver: found.homeserver.nearest(),
            certificate: &found.certificate,
            key: &found.key,
            tls: found.tls,
        })
    }

    /// Where the push gateway listens whose file is there already.
    fn push_listens(&self, folder: &Folder) -> SocketAddr {
        use push_gateway::config::load;

        let loaded = load(&folder.join(PUSH), self.environment, self.clock.wall());
        let config = loaded.config;
        config
            .and_then(|config| config.listen.first().copied())
            .unwrap_or(PUSH_LISTENS)
    }

    /// What is left to do elsewhere before calls work.
    async fn look_around(&mut self, config: &Config, addresses: &[(IpAddr, IpAddr)]) {
        let told: BTreeSet<_> = addresses.iter().map(|(_, told)| *told).collect();
        if !self.arguments.offline && host_name(&config.realm).is_ok() {
            let in_dns: BTreeSet<_> = find::in_dns(&config.realm).await.into_iter().collect();
            if in_dns.is_empty() {
                self.findings.push((
                    "to do",
                    format!("{} is not in DNS yet: step 1 of {SETUP}", config.realm),
                ));
            } else if in_dns != told {
                let list: Vec<_> = in_dns.iter().map(ToString::to_string).collect();
                self.findings.push((
                    "to do",
                    format!(
                        "{} leads to {} in DNS, which is not what clients will be told: step 1 of {SETUP}",
                        config.realm,
                        list.join(" and ")
                    ),
                ));
            }
        }
        if config.credentials.homeserver.is_none() {
            self.findings.push((
                "to do",
                format!(
                    "{TURN} names no homeserver whose users get credentials: step 5 of {SETUP}"
                ),
            ));
        }
        if config.tls.is_none() {
            self.findings.push((
                "to do",
                format!(
                    "a certificate for {}, until then there is no TLS: step 4 of {SETUP}",
                    config.realm
                ),
            ));
        }
    }

    fn nothing_to_do(&self) -> String {
        let out = self.arguments.out.display();
        format!(
            "\
all of it is there in {out}; nothing was changed
  To fill in what is missing, delete a file and run this again. To write all anew, with the same secrets: --force.
  Another secret: --rotate.
Next: {out}/{SETUP}, if its steps are not done yet.
"
        )
    }

    fn told(&self, folder: &Folder, outcomes: &[(&'static str, String)]) -> String {
        let mut text = format!(
            "Nocturne for {}, in {}\n\n",
            self.server_name.name,
            folder.path().display()
        );
        for (word, line) in &self.findings {
            let _ = writeln!(text, "  {word:<9} {line}");
        }
        text.push('\n');
        for (word, name) in outcomes {
            let _ = writeln!(text, "  {word:<9} {name}");
        }
        let _ = write!(
            text,
            "\nNext: open {} and do its steps in their order. It has secrets in it: show it to nobody.\n",
            folder.join(SETUP).display()
        );
        text
    }
}

/// The files of one run: written beside those that are there, and put in their places together.
struct Files<'a> {
    folder: &'a Folder,
    staged: Vec<(String, Staged<'a>)>,
    outcomes: Vec<(&'static str, String)>,
}

impl<'a> Files<'a> {
    fn of(folder: &'a Folder) -> Self {
        Self {
            folder,
            staged: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    /// Writes a file, and returns the name under which it can be read now.
    fn write(&mut self, name: &str, text: &str, mode: Mode) -> Result<String, String> {
        let mut word = "wrote";
        if self.folder.has(name)? {
            let old = self.folder.read(name)?;
            if *old == text {
                return Ok(name.to_owned());
            }
            let kept = self.name_for_old(name)?;
            let staged = self.folder.stage(&kept, &old, mode)?;
            self.staged.push((kept, staged));
            word = "rewrote";
        }
        let staged = self.folder.stage(name, text, mode)?;
        let temporary = staged.temporary();
        self.staged.push((name.to_owned(), staged));
        self.outcomes.push((word, name.to_owned()));
        Ok(temporary)
    }

    /// A name that nothing has yet: what was written by hand once must not be lost the second time.
    fn name_for_old(&self, name: &str) -> Result<String, String> {
        let numbered = (2..=99).map(|number| format!("{name}.old{number}"));
        for old in iter::once(format!("{name}.old")).chain(numbered) {
            if !self.folder.has(&old)? {
                return Ok(old);
            }
        }
        Err(format!(
            "there are too many files named {name}.old… in {}: delete those that are not needed any more",
            self.folder.path().display()
        ))
    }

    /// Gives all of them their names; says of each file what became of it.
    fn commit(mut self) -> Result<Vec<(&'static str, String)>, String> {
        let place = |name: &str| FILES.iter().position(|known| *known == name);
        // copies of old files first
        self.staged.sort_by_key(|(name, _)| place(name));
        self.outcomes.sort_by_key(|(_, name)| place(name));
        let folder = self.folder;
        commit(self.staged.into_iter().map(|(_, staged)| staged).collect())?;
        for name in FILES {
            if !self.outcomes.iter().any(|(_, done)| done == name) && folder.has(name)? {
                self.outcomes.push(("kept", name.to_owned()));
            }
        }
        Ok(self.outcomes)
    }
}

/// A relay's configuration without errors.
fn load(path: &Path, clock: &Clock) -> Result<Config, String> {
    let loaded = turn_relay::config::load(path, &Environment::default(), clock.wall());
    loaded.config.ok_or_else(|| {
        format!(
            "{} cannot be used as it is:\n  {}",
            path.display(),
            loaded.errors.join("\n  ")
        )
    })
}

/// What a file says that clients are told.
fn told_in(relay: &Relay) -> Vec<IpAddr> {
    let external = relay.external.iter().map(|(_, told)| *told);
    let own = relay.addresses.iter().copied();
    let own = own.filter(|local| relay.external.iter().all(|(key, _)| key != local));
    external.chain(own).collect()
}

/// This program, where it is not where the units look for it.
fn program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    (program != Path::new(setup::PROGRAM)).then_some(program)
}

fn shown(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

fn server_name(text: &str) -> Result<ServerName, String> {
    let (domain, port) = match text.rsplit_once(':') {
        Some((domain, port)) => (domain, Some(port)),
        None => (text, None),
    };
    host_name(domain)?;
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err("what is after the colon is no port".to_owned());
    }
    Ok(ServerName {
        name: text.to_owned(),
        domain: domain.to_ascii_lowercase(),
    })
}

/// A name of DNS with more than one word.
fn host_name(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // a name whose last word is a number is an address
    let is_address = text
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if text.len() <= 253 && text.contains('.') && !is_address && text.split('.').all(is_label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("this is no host name such as example.org".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_is_a_domain_with_or_without_a_port() {
        for (text, domain) in [
            ("example.org", "example.org"),
            ("Chat.Example.org:8448", "chat.example.org"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            let name = server_name(text).expect("a server name");
            assert_eq!((name.name.as_str(), name.domain.as_str()), (text, domain));
        }
        for text in [
            "",
            "example",
            "https://example.org",
            "example.org/",
            "example.org:",
            "example.org:x",
            "example.org:99999",
            "10.0.0.1",
            "[::1]:8448",
            "@alice:example.org",
            "a..b",
            "-a.example",
            "exa mple.org",
            "a.example\n",
        ] {
            assert!(server_name(text).is_err(), "{text:?}");
        }
    }
}
