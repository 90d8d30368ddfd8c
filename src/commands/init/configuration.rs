//! The two configurations as they begin: only what has to be there, each line with its reason.

use std::{fmt::Write as _, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use shared::{random::Random, secret::Secret};
use url::Url;
use zeroize::Zeroizing;

use super::find::Addresses;

/// What goes into `turn-relay.yaml`.
pub(super) struct Turn<'a> {
    pub(super) server_name: &'a str,
    /// The host name that clients connect to.
    pub(super) host: &'a str,
    /// The newest first.
    pub(super) secrets: &'a [Secret<String>],
    pub(super) addresses: &'a Addresses,
    pub(super) homeserver: &'a Url,
    /// Where the certificate is or will be.
    pub(super) certificate: &'a Path,
    pub(super) key: &'a Path,
    pub(super) tls: Tls,
}

/// Whether there is a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    Ready,
    /// `tls` is written as a comment, which SETUP.md says how to take away.
    NotYet,
}

/// 256 bits, in characters that nothing has to escape.
pub(super) fn fresh_secret(random: &Random) -> Secret<String> {
    let bytes = Zeroizing::new(random.bytes::<32>());
    Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
}

/// The relay's configuration.
pub(super) fn turn(turn: &Turn<'_>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!(
        "\
# Nocturne's TURN relay, for {server_name}. Written by `nocturne init`, to be changed by hand.
# Every other key, with its default: config/turn-relay.yaml of Nocturne's sources.
# After a change: nocturne check, and then systemctl reload nocturne.

# The name that clients know the relay by.
realm: {host}

# What credentials are signed with, the newest first. SETUP.md says who has to know the first one;
# `nocturne init --rotate` puts another in front.
secrets:
",
        server_name = turn.server_name,
        host = quoted(turn.host),
    ));
    for secret in turn.secrets {
        let secret = Zeroizing::new(quoted(secret.expose()));
        let _ = writeln!(text, "  - {}", *secret);
    }
    *text += &tls(turn);
    *text += &relay(turn.addresses);
    let _ = write!(
        text,
        "
# Who gets credentials: the users of this homeserver, which is asked whether their access tokens are good.
credentials:
  homeserver: {}

# Where the reverse proxy finds the credential service; health and metrics are there, too.
http:
  listen: \"127.0.0.1:3480\"
",
        quoted(turn.homeserver.as_str().trim_end_matches('/'))
    );
    text
}

fn tls(turn: &Turn<'_>) -> String {
    let quoted = |path: &Path| quoted(&path.display().to_string());
    let line = format!(
        "tls: {{certificate: {}, key: {}}}\n",
        quoted(turn.certificate),
        quoted(turn.key)
    );
    match turn.tls {
        Tls::Ready => format!(
            "\n# The certificate for {}, and its key.\n{line}",
            turn.host
        ),
        Tls::NotYet => format!(
            "\n# The certificate for {}, and its key. Without them there is no TLS: SETUP.md says how to get them.\n#{line}",
            turn.host
        ),
    }
}

fn relay(addresses: &Addresses) -> String {
    let list = |addresses: Vec<String>| addresses.join(", ");
    let told = list(
        addresses
            .pairs
            .iter()
            .map(|(_, told)| told.to_string())
            .collect(),
    );
    let external: Vec<_> = addresses
        .pairs
        .iter()
        .filter(|(local, told)| local != told)
        .map(|(local, told)| format!("\"{local}\": \"{told}\""))
        .collect();
    if addresses.are_found && external.is_empty() {
        return format!(
            "\n# Clients are told this host's own addresses, which are looked up at each start: {told}.\n"
        );
    }
    let mut text = format!("\n# Clients are told that they are at {told}.\nrelay:\n");
    if !addresses.are_found {
        let locals = list(
            addresses
                .pairs
                .iter()
                .map(|(local, _)| format!("\"{local}\""))
                .collect(),
        );
        let _ = writeln!(text, "  addresses: [{locals}]");
    }
    if !external.is_empty() {
        let _ = writeln!(
            text,
            "  # this host's own address: the public one that leads here\n  external: {{{}}}",
            list(external)
        );
    }
    text
}

/// The push gateway's configuration.
pub(super) fn push(server_name: &str, pushkeys: &Path) -> String {
    format!(
        "\
# Nocturne's push gateway, for {server_name}. Written by `nocturne init`, to be changed by hand.
# Every other key, with its default: config/push-gateway.yaml of Nocturne's sources.
# After a change: nocturne check, and then systemctl reload nocturne.

# Where the reverse proxy finds it.
http:
  bind_addresses: [\"127.0.0.1\"]
  port: 5000

# The key of sealed pushkeys, with which the homeserver does not see device tokens either. Keep a copy.
pushkey_keys: [{}]

apps:
  # UnifiedPush on Android, for every app: the phone has a push server, and neither Apple nor Google takes
  # part. If yours is the only one that is to be used, name it: allowed_endpoints: [\"ntfy.example.org\"]
  \"*\":
    type: unifiedpush
    payload: opaque

  # Apps of your own, with the credentials that Apple or Google gave you for them.
  #org.example.app.ios:
    #type: apns
    #payload: opaque
    #keyfile: /etc/nocturne/apns.p8
    #key_id: ABCDEF1234
    #team_id: TEAM123456
    #topic: org.example.app
  #org.example.app.android:
    #type: gcm
    #payload: opaque
    #api_version: v1
    #project_id: example-project
    #service_account_file: /etc/nocturne/service-account.json
",
        quoted(&pushkeys.display().to_string())
    )
}

/// A text in quotation marks, for YAML, JSON and TOML.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use shared::{clock::Clock, environment::Environment};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn load(text: &str) -> (turn_relay::config::Config, Vec<String>) {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("turn-relay.yaml");
        std::fs::write(&path, text).expect("written");
        let loaded =
            turn_relay::config::load(&path, &Environment::default(), Clock::system().wall());
        assert_eq!(loaded.errors, [""; 0], "{text}");
        (loaded.config.expect("no errors"), loaded.warnings)
    }

    fn text(addresses: &Addresses, secrets: &[&str]) -> Zeroizing<String> {
        let secrets: Vec<_> = secrets
            .iter()
            .map(|text| Secret::new((*text).to_owned()))
            .collect();
        turn(&Turn {
            server_name: "example.org",
            host: "turn.example.org",
            secrets: &secrets,
            addresses,
            homeserver: &"http://127.0.0.1:8008".parse().expect("a URL"),
            certificate: Path::new("/etc/nocturne/fullchain.pem"),
            key: Path::new("/etc/nocturne/key.pem"),
            tls: Tls::NotYet,
        })
    }

    #[test]
    fn the_relays_file_loads_and_has_what_was_found() {
        let addresses = Addresses {
            pairs: vec![(ip("8.8.8.8"), ip("8.8.8.8"))],
            are_found: true,
            ..Addresses::default()
        };
        let secrets = [
            "a new secret that is long enough",
            "an \"old\" one with a \\ in it, and €",
        ];
        let (config, warnings) = load(&text(&addresses, &secrets));
        assert_eq!(config.realm, "turn.example.org");
        let loaded: Vec<_> = config
            .secrets
            .iter()
            .map(|secret| secret.expose().as_str())
            .collect();
        assert_eq!(loaded, secrets);
        assert!(config.relay.addresses.is_empty() && config.relay.external.is_empty());
        assert_eq!(
            config.credentials.homeserver.expect("it is set").as_str(),
            "http://127.0.0.1:8008/"
        );
        // what is missing is said once, and is the certificate
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("there is no `tls`"), "{warnings:?}");
    }

    #[test]
    fn addresses_that_are_not_found_by_themselves_are_written_down() {
        let addresses = Addresses {
            pairs: vec![
                (ip("10.0.0.5"), ip("8.8.8.8")),
                (ip("2606:4700::7"), ip("2606:4700::7")),
            ],
            are_found: false,
            ..Addresses::default()
        };
        let (config, _) = load(&text(&addresses, &["a secret that is long enough"]));
        assert_eq!(config.relay.addresses, [ip("10.0.0.5"), ip("2606:4700::7")]);
        assert_eq!(config.relay.external, [(ip("10.0.0.5"), ip("8.8.8.8"))]);

        let (config, _) = load(&text(
            &Addresses {
                are_found: true,
                ..addresses
            },
            &["a secret that is long enough"],
        ));
        assert!(config.relay.addresses.is_empty());
        assert_eq!(config.relay.external, [(ip("10.0.0.5"), ip("8.8.8.8"))]);
    }

    #[test]
    fn the_gateways_file_loads_without_a_warning() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let key = folder.path().join("pushkeys.key");
        stand_ins::write_secret(&key, &"A".repeat(43)).expect("written");
        let path = folder.path().join("push-gateway.yaml");
        std::fs::write(&path, push("example.org", &key)).expect("written");
        let now = Clock::system().wall();
        let loaded = push_gateway::config::load(&path, &Environment::default(), now);
        let problems = [loaded.errors, loaded.failing, loaded.warnings].concat();
        assert_eq!(problems, [""; 0]);
        assert_eq!(loaded.config.expect("no errors").apps.len(), 1);
    }

    #[test]
    fn secrets_are_long_and_never_the_same() {
        let random = Random::system();
        let (one, other) = (fresh_secret(&random), fresh_secret(&random));
        assert_eq!(one.expose().len(), 43);
        assert_ne!(one.expose(), other.expose());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert!(one.expose().bytes().all(plain));
    }
}
