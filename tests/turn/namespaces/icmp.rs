//! ICMP errors, and what is too long for the way (RFC 8656 §11.5, §14).

use std::net::SocketAddr;

use serde_json::json;

use super::{
    addresses::relay_on,
    network::{Host, Network},
};
use crate::{
    client::{
        Client, DATA, DATA_INDICATION, ICMP, REALM, SECRET, XOR_PEER_ADDRESS, data, dont_fragment,
        ipv6_too, peer, udp_transport,
    },
    relay::Relay,
    time::eventually,
};

/// More than the narrow link carries, and less than the others do.
const LONG: usize = 1400;
/// What the link to the peer carries: 1300 bytes.
const NARROW: u32 = 1300;

fn relay(home: &Host) -> Relay {
    relay_on(home, json!({"realm": REALM, "secrets": [SECRET]}))
}

fn client(at: &Host, home: &Host) -> Client {
    let mut client = at.udp_client((home.v4, 3478));
    client.allocate_with(&[udp_transport(), ipv6_too()]);
    client
}

/// The ICMP attribute that the client is sent: type, code, data, and the peer that it is about.
#[track_caller]
fn told(client: &mut Client) -> (u8, u8, u32, SocketAddr) {
    let indication = client.indication(DATA_INDICATION);
    let [0, 0, kind, code, data @ ..] = &indication.value(ICMP).expect("an ICMP attribute")[..]
    else {
        panic!("reserved bits are set");
    };
    assert_eq!(indication.value(DATA), None);
    (
        *kind,
        *code,
        u32::from_be_bytes(data.try_into().unwrap()),
        indication.xor(XOR_PEER_ADDRESS).unwrap(),
    )
}

#[test]
fn a_client_is_told_that_nobody_listens_there() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let _relay = relay(&home);
    let mut client = client(&at, &home);
    // closed before anything is sent
    let gone = [elsewhere.peer(), elsewhere.peer_v6()].map(|peer| peer.address());
    for (number, gone, expected) in [(0x4000, gone[0], (3, 3)), (0x4001, gone[1], (1, 4))] {
        assert_eq!(client.permit(gone.ip()), None);
        client.send_to(gone, b"is anybody there");
        let (kind, code, data, about) = told(&mut client);
        assert_eq!(((kind, code), data, about), (expected, 0, gone));
        assert_eq!(client.bind(number, gone), None);
        client.send_on(number, b"is anybody there");
        assert_eq!(told(&mut client).3, gone);
    }
}

#[test]
fn a_client_is_told_of_a_host_that_there_is_no_way_to() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at] = [1, 2].map(|number| network.host(number));
    network.internet.ip("route add unreachable 5.0.200.0/24");
    let _relay = relay(&home);
    let mut client = client(&at, &home);
    let nowhere = SocketAddr::from(([5, 0, 200, 2], 4000));
    assert_eq!(client.permit(nowhere.ip()), None);
    client.send_to(nowhere, b"hello");
    assert_eq!(told(&mut client), (3, 1, 0, nowhere));
}

#[test]
fn what_may_not_be_fragmented_comes_back_as_an_icmp_attribute_with_the_mtu() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    network.internet.ip(&format!("link set to3 mtu {NARROW}"));
    let relay = relay(&home);
    let mut client = client(&at, &home);
    let there = elsewhere.peer();
    assert_eq!(client.permit(there.address().ip()), None);
    let mut tap = elsewhere.tap();
    // again and again: what the relay's system learns of the way is not taken for the client's business
    for _ in 0..3 {
        client.send_with(&[peer(there.address()), dont_fragment(), data(&[1; LONG])]);
        assert_eq!(told(&mut client), (3, 4, NARROW, there.address()));
    }
    client.send_with(&[peer(there.address()), dont_fragment(), data(&[2; 1200])]);
    assert_eq!(there.receive().0, [2; 1200]);
    let packet = tap.find_datagram(there.address(), &[2; 8]);
    assert!(packet.dont_fragment && !packet.is_fragment, "{packet:?}");
    assert_eq!(relay.metric("drops_total", ""), 0);
}

#[test]
fn what_may_be_fragmented_is_and_arrives() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    network.internet.ip(&format!("link set to3 mtu {NARROW}"));
    let _relay = relay(&home);
    let mut client = client(&at, &home);
    let there = elsewhere.peer();
    assert_eq!(client.bind(0x4000, there.address()), None);
    let mut tap = elsewhere.tap();
    for round in 0..3 {
        client.send_on(0x4000, &[round; LONG]);
        assert_eq!(there.receive().0, [round; LONG]);
        let packet = tap.find_datagram(there.address(), &[round; 8]);
        assert!(!packet.dont_fragment && packet.is_fragment, "{packet:?}");
        client.send_to(there.address(), &[round + 100; LONG]);
        assert_eq!(there.receive().0, [round + 100; LONG]);
    }
    // after one that may not be, too
    client.send_with(&[peer(there.address()), dont_fragment(), data(&[9; LONG])]);
    assert_eq!(told(&mut client).2, NARROW);
    client.send_on(0x4000, &[10; LONG]);
    assert_eq!(there.receive().0, [10; LONG]);
}

/// Nobody on the way fragments IPv6: the first is lost, the relay's system learns the MTU, and the next is sent in
/// fragments.
#[test]
fn over_ipv6_the_mtu_is_learned() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    network.internet.ip(&format!("link set to3 mtu {NARROW}"));
    let _relay = relay(&home);
    let mut client = client(&at, &home);
    let there = elsewhere.peer_v6();
    assert_eq!(client.bind(0x4000, there.address()), None);
    client.send_with(&[peer(there.address()), dont_fragment(), data(&[1; LONG])]);
    assert_eq!(told(&mut client), (2, 0, NARROW, there.address()));
    let arrived = eventually(|| {
        client.send_on(0x4000, &[2; LONG]);
        there.receive_within(crate::time::SILENCE).is_some()
    });
    assert!(arrived);
}
