//! What those get who have no credentials, and who may not be who they seem to be: little, seldom, and at no cost.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use serde_json::json;
use stun_types::message::{Message, MessageClass};

use crate::{
    client::{
        ALLOCATE, Answer, Attribute, BINDING, CHANNEL_BIND, CONNECT, CONNECTION_BIND,
        CREATE_PERMISSION, Client, Credentials, ERROR_CODE, REFRESH, SOFTWARE, XOR_MAPPED_ADDRESS,
        message, peer_ip, request, udp_transport,
    },
    relay::Relay,
    time::{PATIENCE, now},
    wire::{self, Received},
};

/// An IPv4 and a UDP header.
const HEADERS: usize = 20 + 8;

/// What the relay answers to one datagram.
fn answer_to(relay: &Relay, datagram: &[u8]) -> Vec<u8> {
    let mut wire = wire::udp(relay.udp[0]);
    wire.send(datagram).unwrap();
    let Received::Message(answer) = wire.receive(PATIENCE) else {
        panic!("no answer");
    };
    answer
}

/// At most `tenths` tenths of its request.
fn assert_at_most(tenths: usize, answer: usize, request: usize) {
    assert!(
        answer * 10 <= request * tenths,
        "{request} bytes, then {answer}"
    );
}

#[test]
fn a_binding_answer_is_at_most_1_6_times_its_request() {
    let relay = Relay::start(&json!({}));
    let request = request(BINDING, &[]);
    assert_eq!(request.len(), 20);
    let answer = Answer(answer_to(&relay, &request));
    assert_at_most(16, answer.0.len(), request.len());
    assert!(answer.xor(XOR_MAPPED_ADDRESS).is_some());
    // nothing but the address
    assert_eq!(answer.message().iter_attributes().count(), 1);
}

#[test]
fn a_401_is_at_most_3_3_times_an_allocate_request_of_28_bytes() {
    let relay = Relay::start(&json!({}));
    let request = request(ALLOCATE, &[udp_transport()]);
    assert_eq!(request.len(), 28);
    let answer = Answer(answer_to(&relay, &request));
    assert_eq!(answer.code(), Some(401));
    assert_at_most(33, answer.0.len(), request.len());
    assert_eq!(answer.value(SOFTWARE), None);
    assert_eq!(
        answer.value(ERROR_CODE).unwrap().len(),
        4,
        "a reason in words"
    );
}

/// By the bytes that a link carries: headers are a part of what is reflected.
#[test]
fn nothing_that_a_stranger_sends_is_answered_with_more_than_3_3_times_as_much() {
    let relay = Relay::start(&json!({}));
    let unknown = Attribute::Raw(0x7F01, Vec::new());
    let many_unknown: Vec<_> = (0x7F01..0x7F40)
        .map(|kind| Attribute::Raw(kind, Vec::new()))
        .collect();
    let username = Attribute::Raw(0x0006, b"4000000000:somebody".to_vec());
    let integrity = {
        // its bytes are wrong
        let mut bytes = request(ALLOCATE, &[udp_transport()]);
        bytes[3] += 24;
        bytes.extend([0, 8, 0, 20]);
        bytes.extend([7; 20]);
        bytes
    };
    let mut datagrams = vec![integrity];
    for method in [
        BINDING,
        ALLOCATE,
        REFRESH,
        CREATE_PERMISSION,
        CHANNEL_BIND,
        CONNECT,
        CONNECTION_BIND,
        0x7FF,
    ] {
        datagrams.push(request(method, &[]));
        datagrams.push(request(method, std::slice::from_ref(&unknown)));
        datagrams.push(request(method, &many_unknown));
        datagrams.push(request(method, std::slice::from_ref(&username)));
    }
    let mut answered = 0;
    for datagram in datagrams {
        let mut wire = wire::udp(relay.udp[0]);
        wire.send(&datagram).unwrap();
        // a question that is always answered comes after it: nothing is waited for in vain
        let marker = request(BINDING, &[]);
        wire.send(&marker).unwrap();
        let is_last = |answer: &[u8]| {
            Message::from_bytes(answer).unwrap().transaction_id()
                == Message::from_bytes(&marker).unwrap().transaction_id()
        };
        let mut sum = 0;
        loop {
            let Received::Message(answer) = wire.receive(PATIENCE) else {
                panic!("no answer");
            };
            if is_last(&answer) {
                break;
            }
            answered += 1;
            sum += HEADERS + answer.len();
            assert_eq!(Answer(answer).value(SOFTWARE), None);
        }
        assert_at_most(33, sum, HEADERS + datagram.len());
    }
    assert!(answered > 20, "{answered} were answered");
}

#[test]
fn what_is_no_request_is_not_answered() {
    let relay = Relay::start(&json!({}));
    let mut wire = wire::udp(relay.udp[0]);
    let mut cut = request(BINDING, &[]);
    cut.truncate(19);
    let mut wrong_cookie = request(BINDING, &[]);
    wrong_cookie[4] ^= 1;
    for datagram in [
        vec![],
        vec![0],
        vec![0xFF; 1200],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0x40, 0, 0, 4, 1, 2, 3, 4],
        // a DTLS ClientHello begins so
        vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        cut,
        wrong_cookie,
        message(MessageClass::Indication, BINDING, &[]),
        message(MessageClass::Indication, ALLOCATE, &[]),
        message(MessageClass::Success, ALLOCATE, &[]),
        message(MessageClass::Error, BINDING, &[]),
    ] {
        wire.send(&datagram).unwrap();
    }
    let marker = request(BINDING, &[]);
    wire.send(&marker).unwrap();
    let Received::Message(answer) = wire.receive(PATIENCE) else {
        panic!("no answer");
    };
    assert_eq!(answer[8..20], marker[8..20], "something was answered");
}

/// How many of `count` Binding requests from a socket at `local` are answered.
fn answered(relay: &Relay, local: Ipv4Addr, count: usize) -> usize {
    let mut wire = wire::udp_from(local.into(), relay.udp[0]);
    for _ in 0..count {
        wire.send(&request(BINDING, &[])).unwrap();
    }
    let mut answers = 0;
    while let Received::Message(_) = wire.receive(Duration::from_millis(500)) {
        answers += 1;
    }
    answers
}

#[test]
fn strangers_of_one_prefix_share_a_budget_and_others_are_not_touched() {
    const PER_SECOND: u32 = 20;

    let relay = Relay::start(&json!({"quotas": {"unauthenticated_per_prefix": PER_SECOND}}));
    // somebody of the same prefix who has an allocation
    let mut member = Client::new(wire::udp_from([127, 9, 9, 200].into(), relay.udp[0]));
    member.allocate();

    let start = now();
    let mut answers = 0;
    for last in 1..=5 {
        answers += answered(&relay, Ipv4Addr::new(127, 9, 9, last), 60);
    }
    let most = f64::from(PER_SECOND) * (1.0 + start.elapsed().as_secs_f64()) + 1.0;
    assert!(answers >= 15, "{answers}");
    assert!(
        f64::from(u32::try_from(answers).unwrap()) <= most,
        "{answers}, {most}"
    );
    assert!(relay.dropped("unauthenticated_budget") > 0);

    // the budget is used up, once more
    answered(&relay, Ipv4Addr::new(127, 9, 9, 1), 60);
    assert!(answered(&relay, Ipv4Addr::new(127, 9, 10, 1), 10) >= 10);
    assert_eq!(member.refresh(600), Ok(600));
}

/// Requests from everywhere, which nobody has to have sent who can receive the answers.
#[test]
fn nothing_grows_under_a_flood_of_allocate_requests_from_everywhere() {
    const REQUESTS: u64 = 200_000;

    let relay = Relay::start(&json!({}));
    let mut old = relay.udp_client();
    old.allocate();
    let mut with_credentials = Client::with(
        wire::udp(relay.udp[0]),
        Credentials::signed("another secret, and long enough", 4_000_000_000, "mallory"),
    );
    assert_eq!(with_credentials.refused_allocation(), 401);
    let kinds = [
        request(ALLOCATE, &[udp_transport()]),
        with_credentials.request(ALLOCATE, &[udp_transport()]),
        request(BINDING, &[]),
        request(CREATE_PERMISSION, &[peer_ip([127, 0, 0, 1])]),
    ];
    let seen = |relay: &Relay| relay.metric("auth_failures_total", "");
    let mut sources = (0..).map(|number: u32| {
        let [_, b, c, d] = (number * 251 + 1).to_be_bytes();
        SocketAddr::from(([127, b, c, d], 0))
    });
    let mut flood = |relay: &Relay, until: u64| {
        let deadline = now() + PATIENCE * 5;
        while seen(relay) < until {
            assert!(now() < deadline, "{} were seen", seen(relay));
            for address in sources.by_ref().take(100) {
                let socket = UdpSocket::bind(address).unwrap();
                for kind in kinds.iter().cycle().take(40) {
                    // the system may refuse, as it may drop
                    let _ = socket.send_to(kind, relay.udp[0]);
                }
            }
        }
    };
    // what is used once is there to stay
    flood(&relay, REQUESTS / 10);
    let before = relay.resident();
    flood(&relay, REQUESTS / 10 + REQUESTS);
    let after = relay.resident();
    assert!(after < before + 1024, "{before} KiB, then {after} KiB");

    assert_eq!(relay.allocations(), 1);
    assert_eq!(old.refresh(600), Ok(600));
    relay.udp_client().allocate();
}

/// RFC 8656 §21.4 is about IPv6; of IPv4, an address of nobody's or of many's must not be answered, either.
#[test]
fn a_nonce_is_of_use_to_nobody_else() {
    let relay = Relay::start(&json!({}));
    let mut one = relay.udp_client();
    one.allocate();
    let stolen = one.request(ALLOCATE, &[udp_transport()]);
    let mut other = relay.udp_client();
    let answer = other.exchange(&stolen).unwrap();
    assert_eq!(answer.code(), Some(438));
    let mut elsewhere = Client::new(wire::udp_from(IpAddr::from([127, 0, 0, 77]), relay.udp[0]));
    assert_eq!(elsewhere.exchange(&stolen).unwrap().code(), Some(438));
    assert_eq!(relay.allocations(), 1);
}
