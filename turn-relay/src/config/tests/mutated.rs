//! Whatever is in the file, reading it ends with a list of problems and not with a panic.

use proptest::prelude::*;

use super::Fixture;

/// Most keys, in a form that mutations turn into almost everything.
const VALID: &str = "\
realm: turn.example.org
secrets: [kPlaXzQyVqFhMEUwbzcx, 'MTIzNDU2Nzg5MDEyMzQ1Ng']
secrets_file: /nonexistent/secrets
listen: {udp: ['0.0.0.0:3478', \"[::]:3478\"], tcp: '127.0.0.1:0', tls: [], proxy_protocol: 10.0.0.0/8}
relay:
  addresses: [10.0.0.5, '2001:db8::7']
  external: {10.0.0.5: 203.0.113.7}
  ports: 50000-50100
  tcp: off
peers: {allow: [10.0.0.0/8, fd00::/8], deny: 198.18.0.0/15, deny_ports: [53, 1-1023]}
quotas: &quotas
  allocations_per_user: 0x0C
  bandwidth_per_user: 1MB
  tcp_buffer: 256KiB
lifetime: {default: 10m, max: 1h}
timeouts: {tls_handshake: 10, first_request: 1.5, idle: 60s}
drain_timeout: 1h
workers: auto
http: {listen: '127.0.0.1:3480'}
credentials: {ttl: 12h, uris: 'turn:turn.example.org:3478?transport=udp', homeserver: 'https://m.example'}
log: {level: info, format: json, unsafe_identifiers: no}
";

fn mutation() -> impl Strategy<Value = (usize, usize, String)> {
    (
        0..VALID.len(),
        0_usize..12,
        "[-\\[\\]{}:,#&*!|>'\"%@?<~/ \n\tab01._=é]{0,4}",
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn mutations_never_panic(mutations in proptest::collection::vec(mutation(), 1..6)) {
        let mut text: Vec<char> = VALID.chars().collect();
        for (start, length, replacement) in mutations {
            let start = start.min(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, replacement.chars());
        }
        let text: String = text.into_iter().collect();
        let loaded = FIXTURE.with(|fixture| fixture.load(&text));
        prop_assert!(loaded.config.is_some() || !loaded.errors.is_empty());
    }
}

thread_local! {
    static FIXTURE: Fixture = Fixture::new();
}
