//! Calls: two clients of the relay, each behind it, on whichever of its threads.

use serde_json::json;

use crate::{
    client::{Client, Relayed},
    relay::{Relay, Setup},
};

/// How many clients: enough for the system to give both threads some.
const CLIENTS: usize = 16;

/// Lets each client talk to the next one, over a channel there and by indications back.
fn talk_in_a_ring(relay: &Relay, mut clients: Vec<Client>) {
    let relayed: Vec<_> = clients.iter_mut().map(Client::allocate).collect();
    let count = clients.len();
    for index in 0..count {
        let next = (index + 1) % count;
        assert_eq!(clients[index].bind(0x4000, relayed[next]), None);
        assert_eq!(clients[next].permit(relayed[index].ip()), None);
    }
    let lengths = [0, 1, 3, 160, 1200];
    for index in 0..count {
        let next = (index + 1) % count;
        for len in lengths {
            let payload = vec![u8::try_from(index).unwrap(); len];
            clients[index].send_on(0x4000, &payload);
            let expected = Relayed::From(relayed[index], payload);
            assert_eq!(clients[next].relayed(), expected, "{index}, {len} bytes");
        }
        clients[next].send_to(relayed[index], b"thanks");
        assert_eq!(
            clients[index].relayed(),
            Relayed::On(0x4000, b"thanks".to_vec())
        );
    }
    let packets = relay.metric("packets_total", "client_to_client");
    assert_eq!(packets, u64::try_from(count * (lengths.len() + 1)).unwrap());
    assert_eq!(
        relay.metric("packets_total", ""),
        packets,
        "by way of a relay socket"
    );
    assert_eq!(relay.metric("drops_total", ""), 0);
}

#[test]
fn clients_over_udp_call_each_other() {
    let relay = Relay::start(&json!({}));
    let clients = (0..CLIENTS).map(|_| relay.udp_client()).collect();
    talk_in_a_ring(&relay, clients);
}

#[test]
fn clients_over_udp_tcp_and_tls_call_each_other() {
    let relay = Setup::new(&json!({})).with_tls(&[]).start();
    let (udp, tcp, tls) = (Relay::udp_client, Relay::tcp_client, Relay::tls_client);
    // each way between each two
    let kinds: [fn(&Relay) -> Client; 9] = [udp, tcp, tls, udp, udp, tls, tls, tcp, tcp];
    let clients = kinds.iter().cycle().take(2 * kinds.len());
    talk_in_a_ring(&relay, clients.map(|connect| connect(&relay)).collect());
}

#[test]
fn a_burst_between_two_streams_arrives_in_order() {
    let relay = Setup::new(&json!({"quotas": {"tcp_buffer": "4MiB"}}))
        .with_tls(&[])
        .start();
    // whichever threads they are on
    for _ in 0..8 {
        let (mut one, mut other) = (relay.tcp_client(), relay.tls_client());
        let (at_one, at_other) = (one.allocate(), other.allocate());
        assert_eq!(one.bind(0x4000, at_other), None);
        assert_eq!(other.bind(0x4001, at_one), None);
        for number in 0..1000_u16 {
            one.send_on(0x4000, &number.to_be_bytes().repeat(100));
        }
        for number in 0..1000_u16 {
            let expected = Relayed::On(0x4001, number.to_be_bytes().repeat(100));
            assert_eq!(other.relayed(), expected);
        }
    }
    assert_eq!(relay.metric("drops_total", ""), 0);
}

#[test]
fn a_client_calls_itself() {
    let relay = Relay::start(&json!({}));
    let mut client = relay.udp_client();
    let relayed = client.allocate();
    assert_eq!(client.bind(0x4000, relayed), None);
    client.send_on(0x4000, b"hello, me");
    assert_eq!(client.relayed(), Relayed::On(0x4000, b"hello, me".to_vec()));
}

/// A relayed address that was given up is nobody's, until it is somebody else's.
#[test]
fn what_comes_after_the_call_reaches_nobody() {
    let relay = Relay::start(&json!({}));
    let (mut one, mut other) = (relay.udp_client(), relay.udp_client());
    let (at_one, at_other) = (one.allocate(), other.allocate());
    assert_eq!(one.bind(0x4000, at_other), None);
    assert_eq!(other.bind(0x4000, at_one), None);
    one.send_on(0x4000, b"hello");
    assert_eq!(other.relayed().payload(), b"hello");
    assert_eq!(other.refresh(0), Ok(0));
    one.send_on(0x4000, b"still there?");
    let lost = || relay.metric("drops_total", "") + relay.metric("packets_total", "client_to_peer");
    assert!(
        crate::time::eventually(|| lost() == 1),
        "{}",
        relay.metrics()
    );
    other.assert_silence();
}
