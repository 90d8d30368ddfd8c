//! What an operator sees: health, metrics, logs.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use serde_json::{Value, json};

use crate::{
    client::{
        ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Client, Credentials, DATA_INDICATION,
        Peer, REFRESH, SECRET, channel, data, dont_fragment, lifetime, message, peer, request,
        udp_transport,
    },
    relay::{Relay, Setup},
    time::{eventually, unix_seconds},
    wire,
};

#[test]
fn health_and_readiness_are_told() {
    let relay = Relay::start(&json!({}));
    assert_eq!(relay.get("/health"), (200, "{}".to_owned()));
    let (status, body) = relay.get("/ready");
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, json!({"ready": true, "reasons": []}));
    assert_eq!(relay.get("/").0, 404);
    assert_eq!(relay.get("/metrics/").0, 404);
}

/// By the names that dashboards have.
#[test]
fn metrics_have_their_names_from_the_start() {
    let relay = Relay::start(&json!({}));
    let text = relay.metrics();
    for line in [
        "nocturne_turn_build_info{version=",
        "nocturne_turn_reloads_total 0",
        "nocturne_turn_failed_reloads_total 0",
        "nocturne_turn_allocations{transport=\"udp\",family=\"ipv4\"} 0",
        "nocturne_turn_allocations{transport=\"tls\",family=\"dual\"} 0",
        "nocturne_turn_allocations_made_total{transport=\"tcp\",family=\"ipv6\"} 0",
        "nocturne_turn_packets_total{direction=\"client_to_peer\"} 0",
        "nocturne_turn_packets_total{direction=\"peer_to_client\"} 0",
        "nocturne_turn_packets_total{direction=\"client_to_client\"} 0",
        "nocturne_turn_bytes_total{direction=\"client_to_peer\"} 0",
        "nocturne_turn_drops_total{reason=\"malformed\"} 0",
        "nocturne_turn_drops_total{reason=\"queue_full\"} 0",
        "nocturne_turn_auth_failures_total{reason=\"bad_password\"} 0",
        "nocturne_turn_denials_total{operation=\"connect\"} 0",
        "nocturne_turn_quota_hits_total{quota=\"user_allocations\"} 0",
        "nocturne_turn_handshakes_total{result=\"completed\"} 0",
        "nocturne_turn_bindings_total 0",
        "nocturne_turn_connections{transport=\"tcp\"} 0",
        "nocturne_turn_connections{transport=\"tls\"} 0",
        "nocturne_turn_unsafe_identifiers 0",
        "process_resident_memory_bytes ",
        "# EOF",
    ] {
        assert!(
            text.lines().any(|found| found.starts_with(line)),
            "{line}:\n{text}"
        );
    }
    // there is no certificate
    assert!(!text.contains("certificate_expiry "), "{text}");
}

#[test]
fn metrics_move_with_what_happens() {
    let relay = Relay::start(&json!({"peers": {"allow": ["127.0.0.1/32"]}}));
    let mut one = relay.udp_client();
    one.ask(BINDING, &[]);
    assert_eq!(relay.metric("bindings_total", ""), 1);
    assert_eq!(relay.metric("auth_failures_total", ""), 0);

    let at_one = one.allocate();
    assert_eq!(relay.metric("auth_failures_total", "challenged"), 1);
    let udp = "{transport=\"udp\",family=\"ipv4\"}";
    assert_eq!(relay.metric("allocations", udp), 1);
    assert_eq!(relay.metric("allocations_made_total", udp), 1);

    let peer = Peer::new();
    assert_eq!(one.bind(0x4000, peer.address()), None);
    one.send_on(0x4000, &[1; 100]);
    one.send_to(peer.address(), &[1; 11]);
    peer.receive();
    peer.receive();
    peer.send(at_one, &[2; 7]);
    one.relayed();
    let count =
        |what: &str, direction: &str| relay.metric(what, &format!("direction=\"{direction}\""));
    assert_eq!(count("packets_total", "client_to_peer"), 2);
    assert_eq!(count("bytes_total", "client_to_peer"), 111);
    assert_eq!(count("packets_total", "peer_to_client"), 1);
    assert_eq!(count("bytes_total", "peer_to_client"), 7);

    let mut other = relay.udp_client();
    let at_other = other.allocate();
    assert_eq!(one.permit(at_other.ip()), None);
    assert_eq!(other.permit(at_one.ip()), None);
    one.send_to(at_other, &[3; 5]);
    other.relayed();
    assert_eq!(count("packets_total", "client_to_client"), 1);
    assert_eq!(count("bytes_total", "client_to_client"), 5);
    assert_eq!(count("packets_total", "client_to_peer"), 2);

    assert_eq!(one.permit([127, 0, 0, 2]), Some(403));
    assert_eq!(relay.metric("denials_total", "create_permission"), 1);
    let mut mallory = Client::with(
        wire::udp(relay.udp[0]),
        Credentials {
            password: "guessed".to_owned(),
            ..Credentials::of("alice")
        },
    );
    assert_eq!(mallory.refused_allocation(), 401);
    assert_eq!(relay.metric("auth_failures_total", "bad_password"), 1);

    one.wire.send(&[0xFF; 30]).unwrap();
    relay.assert_dropped("malformed", 1);
    assert_eq!(one.refresh(0), Ok(0));
    assert!(eventually(|| relay.metric("allocations", udp) == 1));
    assert_eq!(relay.metric("allocations_made_total", udp), 2);
}

/// Whose name must not be anywhere.
const USER: &str = "@distinctive.alice:example.org";
/// Where the relay's clients are told to be.
const RELAY: [u8; 4] = [127, 93, 45, 3];
/// Where clients come from.
const HERE: [u8; 4] = [127, 91, 23, 1];
/// Where peers are.
const THERE: [u8; 4] = [127, 92, 34, 2];
/// Where peers must not be.
const DENIED: [u8; 4] = [10, 94, 56, 4];

/// What is about somebody, as it would stand in a log.
struct Identifiers(Vec<String>);

impl Identifiers {
    fn address(&mut self, address: SocketAddr) {
        self.0.push(address.ip().to_string());
        self.0.push(address.port().to_string());
    }

    /// The first that is in the text, as a word of its own.
    fn find_in(&self, text: &str) -> Option<&String> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric();
        self.0.iter().find(|word| {
            text.match_indices(&***word).any(|(start, _)| {
                let end = start + word.len();
                let before = start.checked_sub(1).map(|index| text.as_bytes()[index]);
                let after = text.as_bytes().get(end).copied();
                !before.is_some_and(is_part) && !after.is_some_and(is_part)
            })
        })
    }
}

/// Everything that happens to clients, peers and strangers, and who they were.
fn conversation(relay: &mut Relay) -> Identifiers {
    let user = format!("{}:{USER}", unix_seconds() + 3600);
    let mut identifiers = Identifiers(vec![USER.to_owned(), "distinctive".to_owned(), user]);
    let here: IpAddr = HERE.into();
    let denied = SocketAddr::new(DENIED.into(), 54_321);
    identifiers.address(denied);
    for connect in [
        Relay::udp_wire_from,
        Relay::tcp_wire_from,
        Relay::tls_wire_from,
    ] {
        let mut client = Client::with(connect(relay, here), Credentials::of(USER));
        identifiers.address(client.wire.local_address());
        client.ask(BINDING, &[]);
        let relayed = client.allocate();
        // its address is the relay's, which is said at start
        identifiers.0.push(relayed.port().to_string());
        let mut other = Client::with(connect(relay, here), Credentials::of(USER));
        identifiers.address(other.wire.local_address());
        let at_other = other.allocate();
        identifiers.0.push(at_other.port().to_string());
        let there = Peer::at(THERE);
        identifiers.address(there.address());

        // both ways, in both forms
        assert_eq!(client.permit(THERE), None);
        client.send_to(there.address(), b"hello");
        there.receive();
        there.send(relayed, b"hello");
        client.relayed();
        assert_eq!(client.bind(0x4000, there.address()), None);
        client.send_on(0x4000, b"hello");
        there.receive();
        there.send(relayed, b"hello");
        client.relayed();
        // straight across
        assert_eq!(client.bind(0x4001, at_other), None);
        assert_eq!(other.permit(relayed.ip()), None);
        client.send_on(0x4001, b"hello");
        other.relayed();
        // what is refused or dropped
        assert_eq!(client.permit(DENIED), Some(403));
        assert_eq!(client.bind(0x4002, denied), Some(403));
        client.send_to(denied, b"hello");
        client.send_on(0x4003, b"hello");
        client.send_with(&[peer(there.address())]);
        client.send_to(SocketAddr::new(RELAY.into(), 54_322), b"hello");
        client.send_with(&[peer(there.address()), dont_fragment(), data(b"hello")]);
        there.receive();
        let stranger = Peer::at(THERE);
        identifiers.address(stranger.address());
        for (method, attributes) in [
            (ALLOCATE, vec![udp_transport()]),
            (ALLOCATE, vec![]),
            (
                REFRESH,
                vec![lifetime(1), crate::client::Attribute::Raw(0x7F01, vec![1])],
            ),
            (CREATE_PERMISSION, vec![]),
            (CHANNEL_BIND, vec![channel(0x7000), peer(denied)]),
        ] {
            client.ask(method, &attributes);
        }
        // a peer that is gone
        let gone = stranger.address();
        drop(stranger);
        assert_eq!(client.permit(gone.ip()), None);
        client.send_to(gone, b"hello");
        client.indication(DATA_INDICATION);

        // credentials that are none
        let in_an_hour = unix_seconds() + 3600;
        for credentials in [
            Credentials::signed("not the secret, but as long", in_an_hour, USER),
            Credentials::signed(SECRET, unix_seconds() - 10, USER),
            Credentials {
                username: USER.to_owned(),
                password: USER.to_owned(),
            },
        ] {
            identifiers.0.push(credentials.username.clone());
            identifiers.0.push(credentials.password.clone());
            let mut mallory = Client::with(connect(relay, here), credentials);
            identifiers.address(mallory.wire.local_address());
            assert_eq!(mallory.refused_allocation(), 401);
        }
        other.credentials.username += "2";
        assert!(other.refresh(600).is_err());
        let mut third = Client::with(connect(relay, here), Credentials::of(USER));
        third.allocate();
        identifiers.address(third.wire.local_address());
        // some end with a word, others without
        assert_eq!(client.refresh(0), Ok(0));
        third.wire.close();
        other.wire.close();
    }
    // what is no message
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[22, 3, 1, 0, 4, 9, 9, 9, 9],
        &[0xFF; 99],
    ] {
        for connect in [Relay::udp_wire_from, Relay::tcp_wire_from] {
            let mut wire = connect(relay, here);
            identifiers.address(wire.local_address());
            wire.send(garbage).unwrap();
        }
    }
    let socket = UdpSocket::bind((here, 0)).unwrap();
    identifiers.address(socket.local_addr().unwrap());
    let mut cut = request(BINDING, &[]);
    cut.truncate(19);
    let class = stun_types::message::MessageClass::Success;
    for datagram in [cut, message(class, ALLOCATE, &[]), vec![]] {
        socket.send_to(&datagram, relay.udp[0]).unwrap();
    }
    relay.reload(&json!({"quotas": {"allocations_per_user": 9}}));
    identifiers
}

/// The relay of [`conversation`], with all that it could say.
fn relay_that_says_everything(more: &Value) -> Relay {
    let config = crate::relay::merged(
        &json!({"relay": {"addresses": [IpAddr::from(RELAY)]}, "log": {"level": "trace"}}),
        more,
    );
    Setup::new(&config)
        .with_tls(&[])
        .with_environment("RUST_LOG", "trace")
        .start()
}

#[test]
fn nobody_is_named_in_logs_at_any_level_nor_in_metrics() {
    let mut relay = relay_that_says_everything(&json!({}));
    let started = relay.log().len();
    let mut identifiers = conversation(&mut relay);
    let metrics = relay.metrics();
    // numbers of the process are about nobody, and may be any
    let lines = metrics.lines().filter(|line| !line.starts_with("process_"));
    for line in lines {
        assert_eq!(identifiers.find_in(line), None, "{line}");
    }
    assert_eq!(relay.metric("unsafe_identifiers", ""), 0);
    relay.signal("TERM");
    relay.signal("TERM");
    relay.ended();
    let log = relay.log();
    // at start it is said where clients will be told to be; later that would be somebody's
    let relay_address = IpAddr::from(RELAY).to_string();
    assert!(log[..started].contains(&relay_address));
    for line in log.lines() {
        assert_eq!(identifiers.find_in(line), None, "{line}");
    }
    identifiers.0 = vec![relay_address];
    for line in log[started..].lines() {
        assert_eq!(identifiers.find_in(line), None, "{line}");
    }
    // an allocation is a number
    assert!(log.contains("\"allocation\":"), "{log}");
}

/// That the test above would see them.
#[test]
fn with_unsafe_identifiers_everybody_is_named_and_start_says_so() {
    let mut relay = relay_that_says_everything(&json!({"log": {"unsafe_identifiers": true}}));
    relay.assert_says("log.unsafe_identifiers is on");
    assert_eq!(relay.metric("unsafe_identifiers", ""), 1);
    let mut client = Client::with(relay.udp_wire_from(HERE.into()), Credentials::of(USER));
    let relayed = client.allocate();
    let there = Peer::at(THERE);
    assert_eq!(client.bind(0x4000, there.address()), None);
    assert_eq!(client.permit([127, 92, 34, 3]), None);
    assert_eq!(client.permit(DENIED), Some(403));
    assert_eq!(client.refresh(0), Ok(0));
    for identifier in [
        client.wire.local_address().to_string(),
        relayed.to_string(),
        client.credentials.username.clone(),
        there.address().to_string(),
        "127.92.34.3".to_owned(),
        IpAddr::from(DENIED).to_string(),
    ] {
        relay.assert_says(&identifier);
    }
    let identifiers = Identifiers(vec![USER.to_owned()]);
    assert!(identifiers.find_in(&relay.log()).is_some());

    relay.reload(&json!({"log": {"unsafe_identifiers": false}}));
    assert_eq!(relay.metric("unsafe_identifiers", ""), 0);
    let before = relay.log().len();
    Client::with(relay.udp_wire_from(HERE.into()), Credentials::of(USER)).allocate();
    let relay_log = relay.log();
    assert_eq!(identifiers.find_in(&relay_log[before..]), None);
    relay.reload(&json!({"log": {"unsafe_identifiers": true}}));
    assert_eq!(
        relay.log().matches("log.unsafe_identifiers is on").count(),
        2
    );
}
