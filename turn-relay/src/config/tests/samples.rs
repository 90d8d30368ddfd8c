//! Files without a problem, and what they mean.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use shared::secret::Secret;

use super::{Fixture, LEAST};

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect()
}

#[test]
fn realm_secret_and_certificate_are_enough() {
    let fixture = Fixture::new();
    let loaded = fixture.load(LEAST);
    assert_eq!(loaded.errors, Vec::<String>::new());
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let config = loaded.config.expect("no error");
    assert_eq!(config.realm, "turn.example.org");
    assert_eq!(config.secrets.len(), 1);
    assert_eq!(config.secrets[0].expose(), "kPlaXzQyVqFhMEUwbzcx");
    assert_eq!(config.listen.udp, addresses(&["0.0.0.0:3478", "[::]:3478"]));
    assert_eq!(config.listen.tcp, config.listen.udp);
    assert_eq!(config.listen.tls, addresses(&["0.0.0.0:5349", "[::]:5349"]));
    assert_eq!(config.http_listen, addresses(&["127.0.0.1:3480"]));
    assert_eq!(config.relay.ports, 49_152..=65_535);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!(
        config.credentials.uris,
        [
            "turns:turn.example.org:5349?transport=tcp",
            "turn:turn.example.org:3478?transport=udp",
            "turn:turn.example.org:3478?transport=tcp",
        ]
    );
}

#[test]
fn without_a_certificate_nothing_listens_for_tls_and_that_is_said() {
    let least = "realm: turn.example.org\nsecrets: kPlaXzQyVqFhMEUwbzcx\n";
    let loaded = Fixture::new().load(least);
    assert_eq!(loaded.warnings.len(), 1);
    assert!(
        loaded.warnings[0].starts_with("f.yaml:1: there is no `tls`"),
        "{loaded:?}"
    );
    let config = loaded.config.expect("no error");
    assert_eq!(config.listen.tls, []);
    assert_eq!(config.credentials.uris.len(), 2);

    let meant = Fixture::new().load(&format!("{least}listen: {{tls: []}}\n"));
    assert_eq!(meant.warnings, Vec::<String>::new());
    assert_eq!(meant.errors, Vec::<String>::new());
}

#[test]
fn secrets_are_those_of_the_list_and_then_those_of_the_file() {
    let fixture = Fixture::new();
    fixture.write(
        "secrets",
        "# newest first\n\n  file-secret-number-1  \r\n#\nfile-secret-number-2",
    );
    let config =
        fixture.config("realm: r\nsecrets: [list-secret-number-1]\nsecrets_file: DIR/secrets\n");
    let secrets: Vec<_> = config.secrets.iter().map(Secret::expose).collect();
    assert_eq!(
        secrets,
        [
            "list-secret-number-1",
            "file-secret-number-1",
            "file-secret-number-2"
        ]
    );
    let shown = format!("{config:?}");
    assert!(!shown.contains("secret-number"), "{shown}");
}

#[test]
fn one_value_alone_is_a_list_of_one() {
    let fixture = Fixture::new();
    let config = fixture.config(
        "realm: r
secrets: kPlaXzQyVqFhMEUwbzcx
listen: {udp: '127.0.0.1:3478', tcp: [], tls: [], proxy_protocol: 10.0.0.0/8}
relay: {addresses: 192.0.2.7, external: {192.0.2.7: 198.51.100.7}, ports: 50000}
peers: {allow: 10.1.0.0/16, deny: 8.8.8.8, deny_ports: 53}
http: {listen: '[::1]:3480'}
credentials: {uris: 'turn:turn.example.org', api_keys: 0123456789abcdefg}
",
    );
    assert_eq!(config.listen.udp, addresses(&["127.0.0.1:3478"]));
    assert_eq!(config.listen.proxy_protocol.len(), 1);
    assert_eq!(config.relay.ports, 50_000..=50_000);
    assert_eq!(config.relay.external.len(), 1);
    assert_eq!(config.peers.allow[0].to_string(), "10.1.0.0/16");
    assert_eq!(config.peers.deny[0].to_string(), "8.8.8.8/32");
    assert_eq!(config.peers.deny_ports, [53]);
    assert_eq!(config.http_listen, addresses(&["[::1]:3480"]));
    assert_eq!(config.credentials.uris, ["turn:turn.example.org"]);
    assert_eq!(config.credentials.api_keys.len(), 1);
}

#[test]
fn every_key_of_the_sections_is_read() {
    let fixture = Fixture::new();
    let config = fixture.config(&format!(
        "{LEAST}quotas: {{allocations_per_user: 1, allocations_total: 2, permissions_per_allocation: 3,
  channels_per_allocation: 4, bandwidth_per_user: 5kB, unauthenticated_per_prefix: 6, connections_per_prefix: 7,
  tcp_buffer: 1MiB}}
lifetime: {{default: 8s, max: 9s}}
timeouts: {{tls_handshake: 1s, first_request: 2s, idle: 3s}}
drain_timeout: 0s
workers: 3
peers: {{deny_ports: [25, '1-3', 2]}}
log: {{level: debug, format: text, unsafe_identifiers: true}}
credentials: {{ttl: 1h, homeserver: 'https://matrix.example.org/', allow_guests: true, pseudonym_epoch: 2h}}
"
    ));
    let quotas = &config.quotas;
    assert_eq!(quotas.allocations_per_user, 1);
    assert_eq!(quotas.allocations_total, 2);
    assert_eq!(quotas.permissions_per_allocation, 3);
    assert_eq!(quotas.channels_per_allocation, 4);
    assert_eq!(quotas.bandwidth_per_user, Some(5000));
    assert_eq!(quotas.unauthenticated_per_prefix, 6);
    assert_eq!(quotas.connections_per_prefix, 7);
    assert_eq!(quotas.tcp_buffer, 1 << 20);
    assert_eq!(config.lifetime.default, Duration::from_secs(8));
    assert_eq!(config.lifetime.max, Duration::from_secs(9));
    assert_eq!(config.timeouts.tls_handshake, Duration::from_secs(1));
    assert_eq!(config.timeouts.first_request, Duration::from_secs(2));
    assert_eq!(config.timeouts.idle, Duration::from_secs(3));
    assert_eq!(config.drain_timeout, Duration::ZERO);
    assert_eq!(config.workers, NonZeroUsize::new(3));
    assert_eq!(config.peers.deny_ports, [1, 2, 3, 25]);
    assert!(config.log.unsafe_identifiers);
    assert_eq!(config.credentials.ttl, Duration::from_hours(1));
    assert!(config.credentials.allow_guests);
    assert_eq!(config.credentials.pseudonym_epoch, Duration::from_hours(2));
}

#[test]
fn everything_may_be_allowed_by_whoever_says_so_in_full() {
    let loaded = Fixture::new().load(&format!("{LEAST}peers: {{allow: ['0.0.0.0/0', '::/0']}}\n"));
    assert_eq!(loaded.errors, Vec::<String>::new());
    assert_eq!(
        loaded.warnings,
        [
            "f.yaml:4: peers.allow: allows everything: whoever has credentials reaches this host's own services \
             and its networks"
        ]
    );
}
