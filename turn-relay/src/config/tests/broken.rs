//! Each kind of error and warning, with its exact place and words.

use super::{Fixture, LEAST};

/// A text with the one problem that it gives.
type Case = (&'static str, &'static str);

/// Each case gives the problem with these words, and no second.
fn assert_each(fixture: &Fixture, cases: &[Case], problems: impl Fn(&str) -> Vec<String>) {
    for (text, expected) in cases {
        let expected = expected.replace("DIR", &fixture.path().display().to_string());
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn files_that_say_nothing_usable() {
    let fixture = Fixture::new();
    let cases: &[Case] = &[
        ("", "f.yaml: the file is empty"),
        ("[]", "f.yaml:1: found a list at the top of the file"),
        ("listen:\n\tudp: 1\n", "f.yaml:2: not valid YAML"),
    ];
    for (text, expected) in cases {
        let errors = fixture.load(text).errors;
        assert!(
            errors.len() == 1 && errors[0].starts_with(expected),
            "{text}: {errors:?}"
        );
    }
}

#[test]
fn realm() {
    const EXPECTED: &str = "expected at most 127 printable ASCII characters without quotation marks, \
                            backslashes and spaces at the ends, such as a host name";
    let fixture = Fixture::new();
    let errors = |realm: &str| {
        fixture
            .load(&format!(
                "secrets: kPlaXzQyVqFhMEUwbzcx\nlisten: {{tls: []}}\n{realm}\n"
            ))
            .errors
    };
    assert_eq!(
        errors(""),
        [
            "f.yaml:1: `realm` is missing (the name that clients know the relay by, mostly its host name: \
             turn.example.org)"
        ]
    );
    for (written, shown) in [
        ("'a\"b'", "\"a\\\"b\"".to_owned()),
        ("'a\\b'", "\"a\\\\b\"".to_owned()),
        ("Zürich", "\"Zürich\"".to_owned()),
        ("' a'", "\" a\"".to_owned()),
        (
            "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'",
            format!("\"{}…\"", "a".repeat(80)),
        ),
    ] {
        assert_eq!(
            errors(&format!("realm: {written}")),
            [format!("f.yaml:3: realm: found {shown}, {EXPECTED}")],
            "{written}"
        );
    }
    assert_eq!(
        errors("realm: 12"),
        ["f.yaml:3: realm: found the number 12, expected text (put it in quotes: \"12\")"]
    );
    assert_eq!(errors(&format!("realm: {}", "a".repeat(127))), [""; 0]);
}

#[test]
fn secrets() {
    const REMEDY: &str = "(without one, everybody could relay through this host; make one with `openssl rand \
                          -base64 32`, and give it to the homeserver, in Synapse as `turn_shared_secret`)";
    let fixture = Fixture::new();
    fixture.write("none", "# nothing\n\n");
    fixture.write("short", "\nshort\n");
    let load = |secrets: &str| fixture.load(&format!("realm: r\nlisten: {{tls: []}}\n{secrets}\n"));
    let errors = |secrets: &str| load(secrets).errors;
    let file = fixture.path().join("none");
    let file = file.display();
    assert_eq!(
        errors(""),
        [format!(
            "f.yaml:1: neither `secrets` nor `secrets_file` is there {REMEDY}"
        )]
    );
    assert_eq!(
        errors("secrets: []"),
        [format!(
            "f.yaml:3: secrets: found an empty list, expected at least one secret {REMEDY}"
        )]
    );
    assert_eq!(
        errors("secrets_file: DIR/none"),
        [format!(
            "f.yaml:3: secrets_file: the file \"{file}\": has no secret in it {REMEDY}"
        )]
    );
    assert_each(
        &fixture,
        &[
            (
                "secrets: ''",
                "f.yaml:3: secrets: found empty text, expected something in it",
            ),
            (
                "secrets:\n  - kPlaXzQyVqFhMEUwbzcx\n  - 1234567890123456",
                "f.yaml:5: secrets[1]: found a number, expected text (put it in quotes)",
            ),
            (
                "secrets_file: /nonexistent/s",
                "f.yaml:3: secrets_file: the file \"/nonexistent/s\" cannot be read: No such file or directory \
                 (os error 2) (looked for /nonexistent/s)",
            ),
            (
                "secrets: [a111111111111111, a222222222222222, a333333333333333, a444444444444444, \
                 a555555555555555, a666666666666666, a777777777777777, a888888888888888, a999999999999999, \
                 b111111111111111, b222222222222222, b333333333333333, b444444444444444, b555555555555555, \
                 b666666666666666, b777777777777777, b888888888888888]",
                "f.yaml:3: secrets[16]: more than 16 secrets (remove those that no homeserver signs with any \
                 more)",
            ),
        ],
        errors,
    );
    assert_each(
        &fixture,
        &[
            (
                "secrets: hunter2",
                "f.yaml:3: secrets: this secret has fewer than 16 characters: whoever sees one credential can \
                 find it by trying (make one: openssl rand -base64 32)",
            ),
            (
                "secrets_file: DIR/short",
                "f.yaml:3: secrets_file: the file \"DIR/short\": line 2: this secret has fewer than 16 \
                 characters: whoever sees one credential can find it by trying (make one: openssl rand -base64 \
                 32)",
            ),
            (
                "secrets: [kPlaXzQyVqFhMEUwbzcx, kPlaXzQyVqFhMEUwbzcx]",
                "f.yaml:3: secrets[1]: this secret is in the list already",
            ),
        ],
        |secrets| {
            let loaded = load(secrets);
            assert_eq!(loaded.errors, [""; 0]);
            loaded.warnings
        },
    );
}

#[test]
fn a_secrets_file_that_everybody_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;

    let fixture = Fixture::new();
    let path = fixture.write("secrets", "kPlaXzQyVqFhMEUwbzcx\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let loaded = fixture.load("realm: r\nlisten: {tls: []}\nsecrets_file: DIR/secrets\n");
    assert_eq!(
        loaded.warnings,
        [format!(
            "f.yaml:3: secrets_file: the file \"{path}\": holds a key and can be read by other users, mode 0644 \
             (chmod 600 {path})",
            path = path.display()
        )]
    );
}

#[test]
fn certificates() {
    let fixture = Fixture::new();
    let errors = |tls: &str| {
        let text = format!("realm: r\nsecrets: kPlaXzQyVqFhMEUwbzcx\ntls: {tls}\n");
        fixture.load(&text).errors
    };
    assert_each(
        &fixture,
        &[
            (
                "{key: DIR/key.pem}",
                "f.yaml:3: tls: `certificate` is missing (a PEM file with the certificate and the chain above \
                 it, mostly called fullchain.pem)",
            ),
            (
                "{certificate: DIR/fullchain.pem}",
                "f.yaml:3: tls: `key` is missing (the PEM file with the certificate's private key)",
            ),
            (
                "{certificate: DIR/fullchain.pem, key: DIR/other-key.pem}",
                "f.yaml:3: tls.key: the file \"DIR/other-key.pem\": the private key does not belong to the \
                 certificate (are both of the same renewal?)",
            ),
            (
                "{certificate: DIR/key.pem, key: DIR/key.pem}",
                "f.yaml:3: tls.certificate: the file \"DIR/key.pem\": no certificate can be read from it: \
                 found `PRIVATE KEY`, expected a PEM file with the certificate and the chain above it",
            ),
            (
                "{certificate: DIR/fullchain.pem, key: DIR/empty.pem}",
                "f.yaml:3: tls.key: the file \"DIR/empty.pem\": no private key can be read from it: found no \
                 PEM block, expected a PEM file with the certificate's key",
            ),
            (
                "{certificate: DIR/fullchain.pem, key: DIR/key.pem, keys: 1}",
                "f.yaml:3: tls.keys: unknown key (did you mean `key`?)",
            ),
            (
                "{certificate: DIR, key: DIR/key.pem}",
                "f.yaml:3: tls.certificate: the file \"DIR\" cannot be read: it is not a file (looked for DIR)",
            ),
        ],
        errors,
    );
    let load = |certificate: &str| {
        fixture.load(&format!(
            "realm: r\nsecrets: kPlaXzQyVqFhMEUwbzcx\ntls: {{certificate: {certificate}, key: DIR/key.pem}}\n"
        ))
    };
    let folder = fixture.path().display();
    let expired = load("DIR/expired.pem");
    assert_eq!(expired.errors, [""; 0]);
    assert!(expired.config.is_some(), "the relay starts all the same");
    assert_eq!(
        expired.failing,
        [format!(
            "f.yaml:3: tls.certificate: the file \"{folder}/expired.pem\": the certificate EXPIRED on Dec 31 \
             00:00:00 2025 +00:00: no client connects over TLS until it is replaced (renew it; the relay reads \
             the file again by itself)"
        )]
    );
    assert_eq!(
        load("DIR/expires-soon.pem").warnings,
        [format!(
            "f.yaml:3: tls.certificate: the file \"{folder}/expires-soon.pem\": the certificate expires on Jan \
             11 00:00:00 2026 +00:00, in 10 days (does its renewal work?)"
        )]
    );
}

#[test]
fn a_certificate_for_another_host_than_clients_are_told() {
    let fixture = Fixture::new();
    let warnings = |credentials: &str| {
        let loaded = fixture.load(&format!("{LEAST}credentials: {credentials}\n"));
        assert_eq!(loaded.errors, [""; 0]);
        loaded.warnings
    };
    let told = "uris: ['turns:relay.example.org:5349?transport=tcp', 'turn:relay.example.org']";
    assert_eq!(
        warnings(&format!("{{{told}, api_keys: 0123456789abcdefg}}")),
        [format!(
            "f.yaml:3: tls.certificate: the file \"{}/fullchain.pem\": the certificate is for \
             turn.example.org, and clients are told to connect to relay.example.org: they will refuse it (get \
             one for that name, or change `credentials.uris`)",
            fixture.path().display()
        )]
    );
    // nobody is told
    assert_eq!(warnings(&format!("{{{told}}}")), [""; 0]);
    assert_eq!(warnings("{api_keys: 0123456789abcdefg}"), [""; 0]);
}

#[test]
fn listeners() {
    const EXPECTED: &str =
        "expected an address of this host with a port (\"0.0.0.0:3478\", \"[::]:3478\")";
    let fixture = Fixture::new();
    let errors = |text: &str| {
        fixture
            .load(&format!(
                "realm: r\nsecrets: kPlaXzQyVqFhMEUwbzcx\n{text}\n"
            ))
            .errors
    };
    for (written, found) in [
        ("3478", "the number 3478"),
        ("localhost:3478", "\"localhost:3478\""),
        ("127.0.0.1", "\"127.0.0.1\""),
        ("'::1:3478'", "\"::1:3478\""),
        ("'0.0.0.0:70000'", "\"0.0.0.0:70000\""),
    ] {
        assert_eq!(
            errors(&format!("listen: {{udp: {written}}}")),
            [format!("f.yaml:3: listen.udp: found {found}, {EXPECTED}")]
        );
    }
    assert_each(
        &fixture,
        &[
            (
                "listen: {udp: '[::ffff:10.0.0.5]:3478'}",
                "f.yaml:3: listen.udp: found \"[::ffff:10.0.0.5]:3478\", expected 10.0.0.5:3478, which is the \
                 same",
            ),
            (
                "listen:\n  tls: '0.0.0.0:443'",
                "f.yaml:4: listen.tls: TLS takes a certificate (set `tls.certificate` and `tls.key`, or \
                 `listen.tls: []`)",
            ),
            (
                "listen: {udp: [], tcp: [], tls: []}",
                "f.yaml:3: listen: there is no address to listen on (set `udp`, `tcp` or `tls`)",
            ),
            (
                "http: {trusted_proxies: ['::/0']}",
                "f.yaml:3: http.trusted_proxies: covers all addresses, so that everybody could claim any address to \
                 be theirs (name the proxies)",
            ),
            (
                "listen: {proxy_protocol: [0.0.0.0/0]}",
                "f.yaml:3: listen.proxy_protocol: covers all addresses, so that everybody could claim any \
                 address to be theirs (name the proxies)",
            ),
            (
                "listen: {proxy_protocol: proxy.example}",
                "f.yaml:3: listen.proxy_protocol: \"proxy.example\" is not an IP address or network: write \
                 192.0.2.7, 10.0.0.0/8, fd00::/8 (names and ranges are not understood here)",
            ),
            (
                "listen: {upd: '0.0.0.0:3478'}",
                "f.yaml:3: listen.upd: unknown key (did you mean `udp`?)",
            ),
            (
                "http: {listen: '0.0.0.0:3478'}",
                "f.yaml:3: http.listen: cannot listen on 0.0.0.0:3478, since `listen.tcp` has 0.0.0.0:3478 \
                 (choose another port)",
            ),
            (
                "listen: {tcp: '127.0.0.1:3480'}",
                "f.yaml:1: http: cannot listen on 127.0.0.1:3480, since `listen.tcp` has 127.0.0.1:3480 \
                 (choose another port)",
            ),
        ],
        errors,
    );
    let loaded = fixture.load(&format!(
        "{LEAST}listen: {{udp: ['0.0.0.0:1', '0.0.0.0:1']}}"
    ));
    assert_eq!(
        loaded.warnings,
        ["f.yaml:4: listen.udp[1]: 0.0.0.0:1 is in the list already"]
    );
    assert_eq!(loaded.config.expect("no error").listen.udp.len(), 1);
}

#[test]
fn the_https_backend() {
    const EXPECTED: &str = "expected where a web server listens in clear: an IP address with a port \
                            (\"127.0.0.1:8080\"), or a Unix socket by its whole path of at most 103 bytes \
                            (\"unix:/run/nginx/turn.sock\")";
    let fixture = Fixture::new();
    let load = |listen: &str| fixture.load(&format!("{LEAST}listen: {listen}\n"));
    let long = format!("unix:/{}", "a".repeat(103));
    for (written, found) in [
        ("8080", "the number 8080"),
        ("localhost:8080", "\"localhost:8080\""),
        ("'127.0.0.1:0'", "\"127.0.0.1:0\""),
        ("'0.0.0.0:8080'", "\"0.0.0.0:8080\""),
        ("'http://127.0.0.1:8080'", "\"http://127.0.0.1:8080\""),
        ("unix:web.sock", "\"unix:web.sock\""),
        (&long, &format!("\"{}…\"", &long[..80])),
    ] {
        let errors = load(&format!("{{https_backend: {written}}}")).errors;
        let expected = match written {
            "8080" => "expected text (put it in quotes: \"8080\")",
            _ => EXPECTED,
        };
        assert_eq!(
            errors,
            [format!(
                "f.yaml:4: listen.https_backend: found {found}, {expected}"
            )]
        );
    }
    assert_each(
        &fixture,
        &[
            (
                "{https_backend: '127.0.0.1:5349'}",
                "f.yaml:4: listen.https_backend: is where this relay itself listens (`listen.tls`), which takes no \
                 HTTP in clear (name the address of a web server)",
            ),
            (
                "{https_backend: '127.0.0.1:3480'}",
                "f.yaml:4: listen.https_backend: is this relay's own `http.listen`: everybody would see its metrics, \
                 and could claim any address to be theirs (put a reverse proxy between, and let it pass on the \
                 credential routes alone)",
            ),
        ],
        |listen| load(listen).errors,
    );
    assert_each(
        &fixture,
        &[
            (
                "{https_backend: '10.0.0.7:8080'}",
                "f.yaml:4: listen.https_backend: what clients have sent encrypted goes to 10.0.0.7:8080 in clear (let \
                 the backend listen on 127.0.0.1 or on a Unix socket, unless nobody else is on the way)",
            ),
            (
                "{https_backend: '127.0.0.1:8080', tls: []}",
                "f.yaml:4: listen.https_backend: has no effect without `listen.tls`: HTTP is taken from TLS \
                 connections",
            ),
            (
                "{https_backend_proxy_protocol: true}",
                "f.yaml:4: listen.https_backend_proxy_protocol: has no effect without `https_backend`",
            ),
        ],
        |listen| {
            let loaded = load(listen);
            assert_eq!(loaded.errors, [""; 0]);
            loaded.warnings
        },
    );
    let config = fixture.config(&format!(
        "{LEAST}listen: {{https_backend: 'unix:/run/web.sock', https_backend_proxy_protocol: true}}\n"
    ));
    let backend = config.listen.https_backend.expect("it is there");
    assert_eq!(backend.address.to_string(), "unix:/run/web.sock");
    assert!(backend.proxy_protocol);
}

#[test]
fn relay_addresses_and_ports() {
    const PORTS: &str =
        "expected a port or a range of ports from 1024 to 65535, such as \"49152-65535\"";
    let fixture = Fixture::new();
    let errors = |relay: &str| fixture.load(&format!("{LEAST}relay: {relay}\n")).errors;
    assert_each(
        &fixture,
        &[
            (
                "{addresses: turn.example.org}",
                "f.yaml:4: relay.addresses: found \"turn.example.org\", expected an IP address without a port \
                 (203.0.113.7, \"2001:db8::7\")",
            ),
            (
                "{addresses: [0.0.0.0]}",
                "f.yaml:4: relay.addresses[0]: 0.0.0.0 stands for every address of the host, and clients have \
                 to be told one that peers can send to (leave `relay.addresses` out: it is found from the \
                 routing table)",
            ),
            (
                "{addresses: ['::']}",
                "f.yaml:4: relay.addresses[0]: :: stands for every address of the host, and clients have to be \
                 told one that peers can send to (leave `relay.addresses` out: it is found from the routing \
                 table)",
            ),
            (
                "{addresses: 224.0.0.1}",
                "f.yaml:4: relay.addresses: 224.0.0.1 is a multicast address, which is no host's own",
            ),
            (
                "{addresses: 255.255.255.255}",
                "f.yaml:4: relay.addresses: 255.255.255.255 is the broadcast address, which is no host's own",
            ),
            (
                "{addresses: 'fe80::1'}",
                "f.yaml:4: relay.addresses: fe80::1 is a link-local address, which has no meaning on another \
                 link",
            ),
            (
                "{addresses: '::ffff:192.0.2.7'}",
                "f.yaml:4: relay.addresses: ::ffff:192.0.2.7 is an IPv4 address in IPv6's form: write the IPv4 \
                 address",
            ),
            (
                "{external: {name: 203.0.113.7}}",
                "f.yaml:4: relay.external.name: the key is not an IP address (write the host's own address, \
                 then the one that peers can send to: \"10.0.0.5\": \"203.0.113.7\")",
            ),
            (
                "{addresses: 10.0.0.5, external: {10.0.0.6: 203.0.113.7}}",
                "f.yaml:4: relay.external.\"10.0.0.6\": 10.0.0.6 is not in `relay.addresses`, so that nothing is \
                 relayed there",
            ),
            (
                "{external: {10.0.0.5: '2001:db8::7'}}",
                "f.yaml:4: relay.external.\"10.0.0.5\": 2001:db8::7 is of another family than 10.0.0.5: a \
                 relayed address stays IPv4 or IPv6",
            ),
            (
                "{external: {10.0.0.5: 203.0.113.7, 10.0.0.6: 203.0.113.7}}",
                "f.yaml:4: relay.external.\"10.0.0.6\": 203.0.113.7 stands for another address already: packets \
                 to it could not be told apart",
            ),
            (
                "{external: {10.0.0.5: 0.0.0.0}}",
                "f.yaml:4: relay.external.\"10.0.0.5\": 0.0.0.0 stands for every address of the host, and clients \
                 have to be told one that peers can send to (leave `relay.addresses` out: it is found from the \
                 routing table)",
            ),
            (
                "{external: [10.0.0.5]}",
                "f.yaml:4: relay.external: found a list, expected a mapping (indented lines of the form `key: \
                 value`)",
            ),
            (
                "{ports: 3000-4000}",
                "f.yaml:4: relay.ports: 3000-4000 has the port of 0.0.0.0:3478, on which `listen.udp` listens \
                 (choose ports without it)",
            ),
            (
                "{tcp: 1}",
                "f.yaml:4: relay.tcp: found the number 1, expected true or false",
            ),
        ],
        errors,
    );
    for (written, found) in [
        ("1023", "the number 1023"),
        ("70000", "the number 70000"),
        ("0-65535", "\"0-65535\""),
        ("50000-49999", "\"50000-49999\""),
        ("50000-", "\"50000-\""),
        ("'+50000'", "\"+50000\""),
        ("[50000]", "a list"),
    ] {
        assert_eq!(
            errors(&format!("{{ports: {written}}}")),
            [format!("f.yaml:4: relay.ports: found {found}, {PORTS}")]
        );
    }
    assert_eq!(
        fixture
            .load(&format!("{LEAST}listen: {{udp: '0.0.0.0:50000'}}\n"))
            .errors,
        [
            "f.yaml:1: relay: ports: 49152-65535 has the port of 0.0.0.0:50000, on which `listen.udp` listens \
             (choose ports without it)"
        ]
    );
    // another address of the host, and another protocol
    let apart =
        "listen: {udp: '192.0.2.8:50000', tcp: '0.0.0.0:50000'}\nrelay: {addresses: 192.0.2.7}\n";
    assert_eq!(fixture.load(&format!("{LEAST}{apart}")).errors, [""; 0]);
}

#[test]
fn peers_that_are_everybody() {
    const EVERYBODY: &str = "allows, taken together, every address of IPv4 or of IPv6, those inside this host and its \
                             networks among them. Name the networks that are meant; whoever does mean everything writes \
                             both \"0.0.0.0/0\" and \"::/0\"";
    let fixture = Fixture::new();
    for allow in [
        "0.0.0.0/0",
        "'::/0'",
        "[0.0.0.0/1, 128.0.0.0/1]",
        "[0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/2, '::/0']",
        "['::/1', '8000::/1', 10.0.0.0/8]",
        "['::ffff:0.0.0.0/96']",
    ] {
        let loaded = fixture.load(&format!("{LEAST}peers:\n  allow: {allow}\n"));
        assert_eq!(
            loaded.errors,
            [format!("f.yaml:5: peers.allow: {EVERYBODY}")],
            "{allow}"
        );
        assert!(loaded.config.is_none());
    }
    // all but one network of each
    let most = "[0.0.0.0/2, 64.0.0.0/3, 96.0.0.0/4, 112.0.0.0/5, 128.0.0.0/1, '8000::/1']";
    let loaded = fixture.load(&format!("{LEAST}peers: {{allow: {most}}}\n"));
    assert_eq!(loaded.errors, [""; 0]);
}

#[test]
fn peers() {
    let fixture = Fixture::new();
    let load = |peers: &str| fixture.load(&format!("{LEAST}peers: {peers}\n"));
    assert_each(
        &fixture,
        &[
            (
                "{deny: 10.0.0.1/8}",
                "f.yaml:4: peers.deny: \"10.0.0.1/8\" has bits set beyond its prefix: write 10.0.0.0/8 for the \
                 network",
            ),
            (
                "{deny_ports: [0]}",
                "f.yaml:4: peers.deny_ports[0]: found the number 0, expected a port or a range of ports from 1 \
                 to 65535, such as \"49152-65535\"",
            ),
            (
                "{allowed: 10.0.0.0/8}",
                "f.yaml:4: peers.allowed: unknown key (did you mean `allow`?)",
            ),
        ],
        |peers| load(peers).errors,
    );
    assert_each(
        &fixture,
        &[
            (
                "{allow: [10.0.0.0/8, 127.0.0.1]}",
                "f.yaml:4: peers.allow: 127.0.0.1/32 lets clients reach this host's own services on its \
                 loopback addresses",
            ),
            (
                "{allow: 169.254.0.0/16}",
                "f.yaml:4: peers.allow: 169.254.0.0/16 lets clients reach link-local addresses, where clouds \
                 have their metadata services with this host's credentials",
            ),
            (
                "{allow: '64:ff9b::/96'}",
                "f.yaml:4: peers.allow: 64:ff9b::/96 lets clients reach IPv4 addresses through NAT64, private \
                 ones among them",
            ),
            (
                "{allow: ['::1', fd00::/8]}",
                "f.yaml:4: peers.allow: ::1/128 lets clients reach this host's own services on its loopback \
                 address",
            ),
        ],
        |peers| {
            let loaded = load(peers);
            assert_eq!(loaded.errors, [""; 0]);
            loaded.warnings
        },
    );
}

#[test]
fn numbers_and_durations() {
    let fixture = Fixture::new();
    assert_each(
        &fixture,
        &[
            (
                "quotas: {allocations_per_user: 0}",
                "f.yaml:4: quotas.allocations_per_user: found the number 0, expected a whole number from 1 to \
                 1000000",
            ),
            (
                "quotas: {allocations_total: many}",
                "f.yaml:4: quotas.allocations_total: found \"many\", expected a whole number from 1 to 1000000",
            ),
            (
                "quotas: {permissions_per_allocation: 5000}",
                "f.yaml:4: quotas.permissions_per_allocation: found the number 5000, expected a whole number \
                 from 1 to 4096",
            ),
            (
                "quotas: {channels_per_allocation: 4097}",
                "f.yaml:4: quotas.channels_per_allocation: found the number 4097, expected a whole number from \
                 1 to 4096",
            ),
            (
                "quotas: {bandwidth_per_user: 10}",
                "f.yaml:4: quotas.bandwidth_per_user: found the number 10, expected a size from 1000B to \
                 1024GiB",
            ),
            (
                "quotas: {unauthenticated_per_prefix: -1}",
                "f.yaml:4: quotas.unauthenticated_per_prefix: found the number -1, expected a whole number from \
                 1 to 1000000",
            ),
            (
                "quotas: {connections_per_prefix: '64'}",
                "f.yaml:4: quotas.connections_per_prefix: found \"64\", expected a whole number from 1 to \
                 1000000 (without quotes)",
            ),
            (
                "quotas: {tcp_buffer: 64KiB}",
                "f.yaml:4: quotas.tcp_buffer: found \"64KiB\", expected a size from 128KiB to 64MiB",
            ),
            (
                "lifetime: {default: 0}",
                "f.yaml:4: lifetime.default: found the number 0, expected a duration from 1s to 1d",
            ),
            (
                "lifetime: {default: 1500ms}",
                "f.yaml:4: lifetime.default: found \"1500ms\", expected a duration of whole seconds",
            ),
            (
                "lifetime: {default: 2h}",
                "f.yaml:4: lifetime.default: is more than `lifetime.max` (3600 s): set both",
            ),
            (
                "lifetime: {max: 5m}",
                "f.yaml:4: lifetime.max: is less than `lifetime.default` (600 s): set both",
            ),
            (
                "timeouts: {tls_handshake: 10m}",
                "f.yaml:4: timeouts.tls_handshake: found \"10m\", expected a duration from 1s to 5m",
            ),
            (
                "timeouts: {first_request: 0}",
                "f.yaml:4: timeouts.first_request: found the number 0, expected a duration from 1s to 5m",
            ),
            (
                "timeouts: {idle: 2h}",
                "f.yaml:4: timeouts.idle: found \"2h\", expected a duration from 1s to 1h",
            ),
            (
                "drain_timeout: 2d",
                "f.yaml:4: drain_timeout: found \"2d\", expected a duration from 0s to 1d",
            ),
            (
                "workers: 0",
                "f.yaml:4: workers: found the number 0, expected `auto`, or a whole number from 1 to 255",
            ),
            (
                "workers: all",
                "f.yaml:4: workers: found \"all\", expected `auto`, or a whole number from 1 to 255",
            ),
            (
                "log: {level: loud}",
                "f.yaml:4: log.level: found \"loud\", expected one of off, error, warn, info, debug, trace",
            ),
            (
                "log: {level: 'info,x=loud'}",
                "f.yaml:4: log.level: found \"info,x=loud\", expected directives such as `info,turn_relay=debug`",
            ),
            (
                "quota: {}",
                "f.yaml:4: quota: unknown key (did you mean `quotas`?)",
            ),
        ],
        |text| fixture.load(&format!("{LEAST}{text}\n")).errors,
    );
    assert_eq!(
        fixture
            .load(&format!("{LEAST}lifetime: {{max: 2h}}\n"))
            .warnings,
        [
            "f.yaml:4: lifetime.max: RFC 8656 recommends an hour at the most: a client that vanishes keeps its \
             port until then"
        ]
    );
}

#[test]
fn credentials() {
    const URI: &str = "expected a TURN URI, such as turns:turn.example.org:5349?transport=tcp or \
                       turn:turn.example.org?transport=udp";
    let fixture = Fixture::new();
    let load = |text: &str| fixture.load(&format!("{LEAST}credentials: {text}\n"));
    let errors = |text: &str| load(text).errors;
    for uri in [
        "turn.example.org",
        "stun:turn.example.org",
        "turn:",
        "turn:turn",
        "turn://turn.example.org",
        "turn:turn.example.org:0",
        "turn:turn.example.org:70000",
        "turn:turn.example.org:",
        "turn:[2001:db8::7",
        "turn:2001:db8::7",
        "turn:[::1]3478",
        "turn:-a.example",
        "turn:turn.example.org?transport=sctp",
        "turn:turn.example.org?a=b",
    ] {
        assert_eq!(
            errors(&format!("{{uris: '{uri}'}}")),
            [format!("f.yaml:4: credentials.uris: found {uri:?}, {URI}")]
        );
    }
    for uri in [
        "turn:turn.example.org",
        "turn:192.0.2.7:3478?transport=tcp",
        "turn:[2001:db8::7]:3478?transport=udp",
        "turns:turn.example.org:443",
        "turn:localhost",
    ] {
        let loaded = load(&format!("{{uris: '{uri}'}}"));
        assert_eq!(loaded.errors, [""; 0], "{uri}");
        assert_eq!(loaded.warnings, [""; 0], "{uri}");
    }
    assert_each(
        &fixture,
        &[
            (
                "{ttl: 10}",
                "f.yaml:4: credentials.ttl: found the number 10, expected a duration from 1m to 30d",
            ),
            (
                "{pseudonym_epoch: 1m}",
                "f.yaml:4: credentials.pseudonym_epoch: found \"1m\", expected a duration from 1h to 30d",
            ),
            (
                "{api_keys: hunter2}",
                "f.yaml:4: credentials.api_keys: has fewer than 16 characters and could be guessed (make one: \
                 openssl rand -hex 16)",
            ),
            (
                "{homeserver: matrix.example.org}",
                "f.yaml:4: credentials.homeserver: found a text, expected the homeserver's base URL, such as \
                 https://matrix.example.org",
            ),
            (
                "{homeserver: 'https://user:pass@matrix.example.org'}",
                "f.yaml:4: credentials.homeserver: found a URL with a user or a password in it, expected the \
                 homeserver's base URL, such as https://matrix.example.org",
            ),
            ("{key: x}", "f.yaml:4: credentials.key: unknown key"),
        ],
        errors,
    );
    assert_each(
        &fixture,
        &[
            (
                "{uris: 'turns:turn.example.org?transport=udp'}",
                "f.yaml:4: credentials.uris: clients are sent to DTLS, on which this relay does not listen (as \
                 long as nothing in front of it does that)",
            ),
            (
                "{allow_guests: true}",
                "f.yaml:4: credentials: `allow_guests` has no effect without `homeserver`, which knows the \
                 guests",
            ),
            (
                "{ttl: 10m, homeserver: 'https://matrix.example.org'}",
                "f.yaml:4: credentials.ttl: Matrix clients look after their credentials every ten minutes, so that \
                 calls fail with such a short one",
            ),
            (
                "{uris: ['turn:a.example', 'turn:b.example', 'turn:c.example', 'turn:d.example', 'turn:e.example']}",
                "f.yaml:4: credentials.uris: clients are told no more than 4 of these, `turns:` first: browsers warn \
                 of five servers, and each makes calls slower to start",
            ),
        ],
        |text| {
            let loaded = load(text);
            assert_eq!(loaded.errors, [""; 0]);
            loaded.warnings
        },
    );
    let nameless = "realm: My Relay\nsecrets: kPlaXzQyVqFhMEUwbzcx\nlisten: {tls: []}\n";
    assert_eq!(fixture.load(nameless).errors, [""; 0]);
    assert_eq!(
        fixture
            .load(&format!(
                "{nameless}credentials: {{api_keys: 0123456789abcdefg}}\n"
            ))
            .errors,
        [
            "f.yaml:4: credentials: `realm` is no host name, so that clients cannot be told where to connect (set \
             `credentials.uris`)"
        ]
    );
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let loaded = Fixture::new().load(
        "relm: turn.example.org
listen:
  udp: 3478
peers:
  allow: [0.0.0.0/0]
lifetime: {default: 0}
",
    );
    let places: Vec<_> = loaded
        .errors
        .iter()
        .map(|error| error.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": "))
        .collect();
    assert_eq!(
        places,
        [
            "f.yaml:1: `realm` is missing (the name that clients know the relay by, mostly its host name",
            "f.yaml:1: neither `secrets` nor `secrets_file` is there (without one, everybody could relay through \
             this host; make one with `openssl rand -base64 32`, and give it to the homeserver, in Synapse as \
             `turn_shared_secret`)",
            "f.yaml:1: relm",
            "f.yaml:3: listen.udp",
            "f.yaml:5: peers.allow",
            "f.yaml:6: lifetime.default",
        ]
    );
}
