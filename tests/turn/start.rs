//! What an operator is told at start, or why there is none.

use std::net::{TcpListener, UdpSocket};

use serde_json::{Value, json};

use crate::{
    client::SECRET,
    relay::{Relay, Setup, merged},
};

/// Relay ports among which are none that the system gives to listeners.
fn elsewhere() -> Value {
    json!({"relay": {"ports": "20000-20099"}})
}

fn refusal(more: &Value) -> String {
    Setup::new(more).refusal()
}

#[test]
fn there_is_no_relay_without_a_secret() {
    for secrets in [json!(null), json!([]), json!([""])] {
        let said = refusal(&json!({"secrets": secrets}));
        assert!(said.contains("secret"), "{said}");
        assert!(said.contains("turn-relay.yaml"), "{said}");
    }
    let said = refusal(&json!({"secrets": null}));
    assert!(said.contains("everybody could relay"), "{said}");
    assert!(said.contains("openssl rand"), "{said}");

    let setup = Setup::new(&json!({"secrets": null, "secrets_file": "secrets"}));
    stand_ins::write_secret(&setup.folder().join("secrets"), "# nothing\n\n").unwrap();
    let said = setup.refusal();
    assert!(said.contains("no secret in it"), "{said}");
}

#[test]
fn secrets_may_stand_in_a_file_and_are_never_said() {
    let setup = Setup::new(&json!({"secrets": null, "secrets_file": "secrets"}))
        .with_environment("RUST_LOG", "trace");
    let file = setup.folder().join("secrets");
    stand_ins::write_secret(&file, &format!("# newest first\n{SECRET}\n")).unwrap();
    let relay = setup.start();
    relay.udp_client().allocate();
    assert!(!relay.log().contains(SECRET), "{}", relay.log());
    // nor by the refusal of a file that has them in the wrong place
    let said = refusal(&json!({"secrets": {"one": SECRET}, "realm": [SECRET]}));
    assert!(!said.contains(SECRET), "{said}");
}

#[test]
fn a_peer_list_that_allows_everything_is_refused_unless_it_says_so_in_full() {
    for allow in [
        json!(["0.0.0.0/0"]),
        json!(["::/0"]),
        json!(["0.0.0.0/1", "128.0.0.0/1"]),
        json!(["128.0.0.0/1", "64.0.0.0/2", "0.0.0.0/2"]),
        json!(["::/1", "8000::/1", "10.0.0.0/8"]),
        json!(["0.0.0.0/0", "::/1", "8000::/1"]),
    ] {
        let said = refusal(&json!({"peers": {"allow": allow}}));
        assert!(
            said.contains("every address of IPv4 or of IPv6"),
            "{allow}: {said}"
        );
        assert!(
            said.contains("0.0.0.0/0") && said.contains("::/0"),
            "{said}"
        );
    }
    let relay = Relay::start(&json!({"peers": {"allow": ["0.0.0.0/0", "::/0"]}}));
    relay.assert_says("allows everything");
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_nearest() {
    for (more, wrong, right) in [
        (json!({"relm": "x"}), "relm", "realm"),
        (
            json!({"quotas": {"allocation_per_user": 3}}),
            "allocation_per_user",
            "allocations_per_user",
        ),
        (json!({"peers": {"deney": []}}), "deney", "deny"),
        (json!({"listen": {"upd": []}}), "upd", "udp"),
        (json!({"relay": {"adresses": []}}), "adresses", "addresses"),
        (
            json!({"log": {"unsafe_identifier": true}}),
            "unsafe_identifier",
            "unsafe_identifiers",
        ),
    ] {
        let said = refusal(&more);
        let line = said
            .lines()
            .find(|line| line.contains(&format!("{wrong}: unknown key")));
        let line = line.unwrap_or_else(|| panic!("{wrong} is not named: {said}"));
        assert!(line.contains(&format!("did you mean `{right}`")), "{line}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let said = refusal(&json!({
        "secrets": [],
        "relay": {"ports": "80-90", "addresses": ["0.0.0.0"]},
        "quotas": {"allocations_total": 0},
        "colour": "blue",
    }));
    for word in ["secret", "1024", "0.0.0.0", "allocations_total", "colour"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn a_port_that_somebody_else_has_is_named_with_its_protocol() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp, tcp) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let udp_kept = UdpSocket::bind(udp);
    assert!(
        udp_kept.is_err(),
        "the sockets are open until the end of the test"
    );
    for (more, address, protocol) in [
        (json!({"listen": {"udp": [udp]}}), udp, "UDP"),
        (json!({"listen": {"tcp": [tcp]}}), tcp, "TCP"),
        (json!({"http": {"listen": [tcp]}}), tcp, ""),
    ] {
        let said = refusal(&merged(&more, &elsewhere()));
        let line = said
            .lines()
            .find(|line| line.contains(&format!("cannot listen on {address}")));
        let line = line.unwrap_or_else(|| panic!("{address} is not named: {said}"));
        assert!(line.contains(protocol), "{line}");
        assert!(line.contains("another program"), "{line}");
    }
}

#[test]
fn two_relays_cannot_have_one_port() {
    let relay = Relay::start(&json!({}));
    for more in [
        json!({"listen": {"udp": [relay.udp[0]]}}),
        json!({"listen": {"tcp": [relay.tcp[0]]}}),
    ] {
        let said = refusal(&merged(&more, &elsewhere()));
        assert!(said.contains("another Nocturne"), "{said}");
    }
    relay.udp_client().allocate();
}

#[test]
fn an_address_that_this_host_has_not_is_named() {
    let said = refusal(&json!({"listen": {"udp": ["192.0.2.1:0"]}}));
    assert!(
        said.contains("192.0.2.1:0") && said.contains("no interface"),
        "{said}"
    );
}

#[test]
fn there_are_no_tls_listeners_without_a_certificate() {
    let said = refusal(&json!({"listen": {"tls": ["127.0.0.1:0"]}}));
    assert!(said.contains("TLS takes a certificate"), "{said}");
    assert!(said.contains("tls.certificate"), "{said}");

    let said = refusal(&json!({"tls": {"certificate": "missing.pem", "key": "missing.pem"}}));
    assert!(said.contains("missing.pem"), "{said}");
}

#[test]
fn one_line_says_what_clients_will_be_told() {
    let relay = Relay::start(&json!({}));
    let lines = |relay: &Relay| {
        let log = relay.log();
        log.lines()
            .filter(|line| line.contains("clients will be told"))
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };
    let [line] = &lines(&relay)[..] else {
        panic!("one line: {}", relay.log());
    };
    assert!(
        line.contains("127.0.0.1") && line.contains("49152 to 65535"),
        "{line}"
    );
    relay.assert_says("127.0.0.1 cannot be reached from the internet");

    let relay = Relay::start(&json!({"relay": {
        "external": {"127.0.0.1": "8.8.4.4"},
        "ports": "50000-50099",
    }}));
    let [line] = &lines(&relay)[..] else {
        panic!("one line: {}", relay.log());
    };
    assert!(line.contains("8.8.4.4 (here 127.0.0.1)"), "{line}");
    assert!(line.contains("50000 to 50099"), "{line}");
    assert!(!relay.log().contains("cannot be reached from the internet"));
}

#[test]
fn a_relay_whose_address_cannot_be_its_own_says_so() {
    let said = refusal(&json!({"relay": {
        "addresses": ["127.0.0.1"],
        "external": {"10.0.0.5": "8.8.4.4"},
    }}));
    assert!(
        said.contains("10.0.0.5 is not in `relay.addresses`"),
        "{said}"
    );
}

#[test]
fn what_is_short_or_weak_is_warned_of() {
    let relay = Relay::start(&json!({"secrets": ["short"]}));
    relay.assert_says("fewer than 16 characters");
    assert!(!relay.log().contains("\"short\""));
    let relay = Relay::start(&json!({"listen": {"tls": null}}));
    relay.assert_says("there is no `tls`");
}
