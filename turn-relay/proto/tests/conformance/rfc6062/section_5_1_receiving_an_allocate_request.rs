//! RFC 6062 §5.1: Allocate with REQUESTED-TRANSPORT of TCP.

use turn_relay_proto::address::{Family, Transport};

use super::{allocated, world};
use crate::support::{
    client::Client,
    stun::{ALLOCATE, CONNECT, CONNECTION_BIND, Draft, attribute},
    world::{World, socket},
};

fn request() -> Draft {
    Draft::request(ALLOCATE).transport(6)
}

#[test]
fn while_it_is_off_tcp_is_an_unsupported_transport() {
    let mut world = World::new();
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        let mut client = Client::over(&mut world, "alice", transport, Family::V4);
        client.call(&mut world, request()).error(442);
    }
}

#[test]
fn while_it_is_off_nothing_connects() {
    let mut world = World::new();
    let (client, _) = Client::allocated_over(&mut world, "alice", Transport::Tcp);
    for method in [CONNECT, CONNECTION_BIND] {
        let request = Draft::request(method)
            .peer(socket("198.51.100.1:80"))
            .connection_id(1);
        let bytes = client.sign(request);
        let outcome = client.put(&mut world, &bytes);
        assert!(outcome.connects.is_empty() && outcome.joined.is_empty());
        for message in &outcome.to_clients {
            let crate::support::world::FromServer::Stun(answer) = &message.message else {
                panic!("{outcome:?}");
            };
            assert!(!answer.is_success());
        }
    }
}

#[test]
fn a_tcp_allocation_has_a_listening_socket() {
    let mut world = world();
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut client = Client::over(&mut world, "alice", transport, Family::V4);
        let (answer, outcome) = client.call_with_outcome(&mut world, request());
        let answer = answer.success();
        assert_eq!(
            outcome.opened[0].kind,
            turn_relay_proto::effect::RelayKind::Tcp
        );
        assert_eq!(answer.relayed(), [outcome.opened[0].advertised]);
        assert!(!answer.has(attribute::RESERVATION_TOKEN));
    }
}

#[test]
fn over_datagrams_it_gets_400() {
    let mut world = world();
    for transport in [Transport::Udp, Transport::Dtls] {
        let mut client = Client::over(&mut world, "alice", transport, Family::V4);
        client.call(&mut world, request()).error(400);
    }
}

#[test]
fn what_makes_no_sense_for_tcp_gets_400() {
    let mut world = world();
    for request in [
        request().dont_fragment(),
        request().even_port(),
        request().even_port_and_next(),
        request().token(&[0; 8]),
    ] {
        let mut client = Client::over(&mut world, "alice", Transport::Tcp, Family::V4);
        client.call(&mut world, request).error(400);
    }
    assert_eq!(world.allocations(), 0);
}

#[test]
fn an_ipv6_address_is_possible() {
    let mut world = world();
    let mut client = Client::over(&mut world, "alice", Transport::Tcp, Family::V4);
    let answer = client.call(&mut world, request().family(2)).success();
    assert!(answer.relayed()[0].is_ipv6());
}

#[test]
fn udp_allocations_are_as_before() {
    let mut world = world();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    assert!(client.reaches(&mut world, peer));
    assert!(client.hears(&mut world, relayed, peer).is_some());
}

#[test]
fn no_datagram_goes_out_of_a_tcp_allocation() {
    let mut world = world();
    let (mut client, _) = allocated(&mut world);
    let peer = socket("198.51.100.1:9");
    client.permit(&mut world, peer);
    client.send(&mut world, peer, b"data").silence();
    let answer = client.bind(&mut world, 0x4000, peer);
    assert!(
        !answer.is_success(),
        "a channel carries datagrams: {answer:?}"
    );
    client.send_on(&mut world, 0x4000, b"data").silence();
}

#[test]
fn no_datagram_goes_straight_across_to_a_tcp_allocation() {
    let mut world = world();
    let (mut tcp, at_tcp) = allocated(&mut world);
    let (mut udp, at_udp) = Client::allocated(&mut world, "bob");
    tcp.permit(&mut world, at_udp);
    udp.permit(&mut world, at_tcp);
    udp.send(&mut world, at_tcp, b"data").silence();
    tcp.send(&mut world, at_udp, b"data").silence();
}
