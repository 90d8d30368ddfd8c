//! SETUP.md: what is to be done and pasted, in order, with this installation's names, ports and secrets.
//!
//! Everything in it is taken from the configurations as they are, so that it is right for files that were
//! changed by hand, too. The snippets are fed to the programs that they are for by `tests/init`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use turn_relay::config::{Config, Listen};
use zeroize::Zeroizing;

use super::{configuration::quoted, find::Homeserver};
use crate::commands::turn_uri::{TLS_PORT, Transport, Uri};

mod homeserver;
mod host;
mod others;
mod proxy;

pub(super) use host::PROGRAM;

/// How long credentials are good that others sign as the snippets say.
const LIFETIME_HOURS: u64 = 12;

/// What SETUP.md is made of.
pub(super) struct Installation<'a> {
    /// Where the configurations are, from the root on.
    pub(super) folder: &'a Path,
    /// The program that runs now, where that is not where the units expect it.
    pub(super) program: Option<&'a Path>,
    /// The homeserver's name, as Matrix IDs have it.
    pub(super) server_name: &'a str,
    /// The same without a port.
    pub(super) domain: &'a str,
    pub(super) homeserver: &'a Homeserver,
    pub(super) turn: &'a Config,
    /// Where the relay gets its certificate from.
    pub(super) certificate: &'a Path,
    pub(super) key: &'a Path,
    /// This host's own addresses, and what clients are told.
    pub(super) addresses: &'a [(IpAddr, IpAddr)],
    /// Where the push gateway listens.
    pub(super) push: SocketAddr,
}

/// What the snippets are made of.
struct Facts<'a> {
    is: &'a Installation<'a>,
    /// The relay's host name.
    host: String,
    /// Where clients reach the relay; `turns:` first, also where TLS is to come.
    uris: Vec<Uri>,
    /// The host name under which clients reach the homeserver.
    matrix_host: String,
    secret: &'a str,
}

/// The text of SETUP.md.
pub(super) fn text(installation: &Installation<'_>) -> Zeroizing<String> {
    let facts = Facts::of(installation);
    let mut text = Zeroizing::new(String::new());
    for part in [
        head(&facts),
        host::dns(&facts),
        host::firewall(&facts),
        host::services(&facts),
        host::certificate(&facts),
        proxy::section(&facts),
        homeserver::section(&facts),
        homeserver::well_known(&facts),
        last_step(&facts),
        others::sections(&facts),
        rotation(&facts),
    ] {
        text.push_str(&Zeroizing::new(part));
    }
    text
}

/// The text with the new secret wherever the old one is; none where it is not.
pub(super) fn with_another_secret(text: &str, old: &str, new: &str) -> Option<Zeroizing<String>> {
    /// A shorter one may be part of a word.
    const SHORTEST: usize = 16;
    if old.len() < SHORTEST {
        return None;
    }
    let mut changed = Zeroizing::new(text.to_owned());
    for written in [quoted, others::lua, shell] {
        changed = Zeroizing::new(changed.replace(&written(old), &written(new)));
    }
    (*changed != text).then_some(changed)
}

impl<'a> Facts<'a> {
    fn of(installation: &'a Installation<'a>) -> Self {
        let config = installation.turn;
        let mut uris: Vec<_> = config
            .credentials
            .uris
            .iter()
            .filter_map(|text| Uri::parse(text))
            .collect();
        if uris.is_empty() {
            uris = uris_at(&format!("turn.{}", installation.domain), &config.listen);
        }
        let host = uris
            .first()
            .map_or_else(|| config.realm.clone(), |uri| uri.host.clone());
        if config.tls.is_none() && uris.iter().all(|uri| uri.transport != Transport::Tls) {
            let tls = Uri::parse(&format!("turns:{host}:{TLS_PORT}?transport=tcp"));
            uris.splice(..0, tls);
        }
        let public = &installation.homeserver.public;
        let matrix_host = public.host_str().unwrap_or(installation.domain).to_owned();
        Self {
            is: installation,
            host,
            uris,
            matrix_host,
            secret: config.secrets.first().map_or("", |secret| secret.expose()),
        }
    }

    /// Whether TLS is still to come.
    fn waits_for_certificate(&self) -> bool {
        self.is.turn.tls.is_none()
    }

    fn uri(&self, transport: Transport) -> Option<&Uri> {
        self.uris.iter().find(|uri| uri.transport == transport)
    }

    /// A file of the folder, for a shell.
    fn file(&self, name: &str) -> String {
        shell(&self.is.folder.join(name).display().to_string())
    }

    fn folder(&self) -> String {
        shell(&self.is.folder.display().to_string())
    }

    /// Where the reverse proxy finds the credential service.
    fn credentials(&self) -> SocketAddr {
        let listen = self.is.turn.http_listen.first().copied();
        reachable(listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 3480))))
    }

    /// Where the reverse proxy finds the push gateway.
    fn push(&self) -> SocketAddr {
        reachable(self.is.push)
    }

    /// Whether somebody translates this host's addresses.
    fn is_behind_nat(&self) -> bool {
        self.is.addresses.iter().any(|(local, told)| local != told)
    }

    /// This host's own addresses that nobody outside has a route to.
    fn private_addresses(&self) -> BTreeSet<IpAddr> {
        self.is
            .addresses
            .iter()
            .map(|(local, _)| *local)
            .filter(|local| !shared::address_policy::is_public(*local))
            .collect()
    }
}

/// For a relay whose realm is no host name.
fn uris_at(host: &str, listen: &Listen) -> Vec<Uri> {
    [
        ("turns", &listen.tls, "tcp"),
        ("turn", &listen.udp, "udp"),
        ("turn", &listen.tcp, "tcp"),
    ]
    .into_iter()
    .filter_map(|(scheme, addresses, transport)| {
        let port = addresses.first()?.port();
        Uri::parse(&format!("{scheme}:{host}:{port}?transport={transport}"))
    })
    .collect()
}

fn head(facts: &Facts<'_>) -> String {
    let told: Vec<_> = facts
        .is
        .addresses
        .iter()
        .map(|(_, told)| told.to_string())
        .collect();
    let public = facts.is.homeserver.public.as_str().trim_end_matches('/');
    let nearest = facts.is.homeserver.nearest().as_str().trim_end_matches('/');
    let assumed = if facts.is.homeserver.is_found {
        ""
    } else {
        " (assumed: if it is another, write that wherever this name is below)"
    };
    format!(
        "\
# Nocturne for {server_name}

**There are secrets in here.** Whoever has them can relay through your host. Do not send this file to anybody.

Do the steps 1 to 8 in their order. Each says what it is for and what to paste, filled in for this machine. After step 3 both services run; after step 6 calls work.

| | |
|---|---|
| configurations | `{folder}` |
| calls go through | `{host}`, at {told} |
| clients reach the homeserver at | <{public}>{assumed} |
| this machine reaches it at | <{nearest}> |

To have this file made anew after a change of the configurations, delete it and run `{again}`.

",
        server_name = facts.is.server_name,
        folder = facts.is.folder.display(),
        host = facts.host,
        told = told.join(" and "),
        again = format_args!(
            "sudo nocturne init --server-name {} --out {}",
            facts.is.server_name,
            facts.folder()
        ),
    )
}

fn last_step(facts: &Facts<'_>) -> String {
    let host = &facts.matrix_host;
    format!(
        "\
## 8. Try it

On this machine:

```sh
sudo -u nocturne --preserve-env=NOCTURNE_ACCESS_TOKEN nocturne doctor --config-dir {folder} --homeserver {public} --server-name {server_name}
```

It tries everything above for real (DNS, ports, the certificate, a packet through the relay over each URI, the homeserver, the well-known, the push providers), and says for each failure what to do. With the access token of some user in the environment variable `NOCTURNE_ACCESS_TOKEN` it also looks at what that user's client is told, which matters most (`read -rs NOCTURNE_ACCESS_TOKEN; export NOCTURNE_ACCESS_TOKEN`, and paste it), and with `--livekit FILE` at LiveKit's configuration. It cannot see the firewall, and with `--elsewhere` on another computer it does (`docs/install.md` of Nocturne's sources, step 4). So, from anywhere else:

```sh
curl https://{host}/_matrix/push/v1/notify
curl https://{host}/_matrix/client/v3/voip/turnServer
```

The first answers `{{\"gateway\":\"matrix\",…}}`: pushers may have this address. The second answers `M_MISSING_TOKEN`: the credentials are for users alone. An empty answer or a page of the homeserver means that step 5 is not in effect.

Then call somebody, one of you on Wi-Fi and the other on the mobile network. `curl -s http://{credentials}/metrics | grep allocations` shows that the relay takes part.

",
        folder = facts.folder(),
        public = shell(facts.is.homeserver.public.as_str().trim_end_matches('/')),
        server_name = shell(facts.is.server_name),
        credentials = facts.credentials()
    )
}

fn rotation(facts: &Facts<'_>) -> String {
    format!(
        "\
## Change the secret later

```sh
sudo nocturne init --rotate --out {folder}
sudo systemctl reload nocturne
```

A new secret is then in front of the list in `turn-relay.yaml`, and the old one goes on working. This file has the new one: paste it again wherever you had pasted the old one. {hours} hours after the last of these changes (24 with Nextcloud Talk) take the old one out of the list, and reload once more.

",
        folder = facts.folder(),
        hours = hours(facts.is.turn)
    )
}

/// For how many hours a credential may be good that was signed with a secret.
pub(super) fn hours(config: &Config) -> u64 {
    config
        .credentials
        .ttl
        .as_secs()
        .div_ceil(3600)
        .max(LIFETIME_HOURS)
}

/// A fenced block.
fn block(language: &str, text: &str) -> String {
    format!("```{language}\n{}\n```\n\n", text.trim_end())
}

/// The same place as a program on this machine reaches it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// A word for a shell, in quotation marks if it needs them.
fn shell(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["/etc/nocturne", "/srv/my files", "it's", "$(reboot)", ""] {
            let echoed = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", shell(word))])
                .output()
                .expect("a shell");
            assert_eq!(String::from_utf8_lossy(&echoed.stdout), word);
        }
        assert_eq!(shell("/etc/nocturne"), "/etc/nocturne");
    }

    #[test]
    fn a_new_secret_takes_the_place_of_the_old_one() {
        for old in ["a plain secret, long enough", "it's \"long\" enough \\"] {
            let text = format!(
                "a: {}\nb = {};\nc={} d\nrest\n",
                quoted(old),
                others::lua(old),
                shell(old)
            );
            let changed = with_another_secret(&text, old, "new").expect("it is there");
            assert_eq!(*changed, "a: \"new\"\nb = \"new\";\nc=new d\nrest\n");
        }
        assert_eq!(
            with_another_secret("nothing", "a plain secret, long enough", "new"),
            None
        );
        assert_eq!(with_another_secret("an \"a\" and a", "a", "new"), None);
    }
}
