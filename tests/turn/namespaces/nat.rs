//! NAT: in front of clients, and 1:1 in front of the relay.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use super::{addresses::relay_on, network::Network};
use crate::client::{BINDING, REALM, Relayed, SECRET, XOR_MAPPED_ADDRESS};

#[test]
fn clients_behind_one_nat_are_told_apart() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, gateway, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let inside = network.host(4);
    // from 192.168.1.2 there is no way but through the gateway
    gateway.namespace.link("lan", &inside.namespace, "lan");
    gateway.namespace.set("ipv4/ip_forward", "1");
    gateway.namespace.ip("addr add 192.168.1.1/24 dev lan");
    inside.namespace.ip("link set eth0 down
         addr add 192.168.1.2/24 dev lan
         route replace default via 192.168.1.1");
    if !gateway
        .namespace
        .iptables("-t nat -A POSTROUTING -o eth0 -j MASQUERADE")
    {
        return;
    }
    let relay = relay_on(&home, json!({"realm": REALM, "secrets": [SECRET]}));
    let peer = elsewhere.peer();
    let mut clients: Vec<_> = (0..4).map(|_| inside.udp_client((home.v4, 3478))).collect();
    let mut mapped = Vec::new();
    for client in &mut clients {
        let seen = client.ask(BINDING, &[]).xor(XOR_MAPPED_ADDRESS).unwrap();
        assert_eq!(seen.ip(), gateway.v4);
        mapped.push(seen);
    }
    mapped.sort_unstable();
    mapped.dedup();
    assert_eq!(mapped.len(), 4);
    let relayed: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            let relayed = client.allocate();
            assert_eq!(client.bind(0x4000, peer.address()), None);
            relayed
        })
        .collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let payload = format!("client {number}").into_bytes();
        client.send_on(0x4000, &payload);
        assert_eq!(peer.receive(), (payload.clone(), relayed[number]));
        peer.send(relayed[number], &payload);
        assert_eq!(client.relayed(), Relayed::On(0x4000, payload));
    }
    assert_eq!(relay.allocations(), 4);
    // and two behind the same NAT call each other through the relay
    let (one, other) = clients.split_at_mut(1);
    assert_eq!(one[0].permit(home.v4), None);
    assert_eq!(other[0].permit(home.v4), None);
    one[0].send_to(relayed[1], b"hello, neighbour");
    let expected = Relayed::From(relayed[0], b"hello, neighbour".to_vec());
    assert_eq!(other[0].relayed(), expected);
}

/// As on the clouds: the host has a private address, and a public one leads to it.
#[test]
fn a_relay_behind_a_1_to_1_nat_tells_its_public_address() {
    const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(5, 0, 9, 9);

    let Some(network) = Network::new() else {
        return;
    };
    let [gateway, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let home = network.host(4);
    gateway.namespace.link("lan", &home.namespace, "lan");
    gateway.namespace.set("ipv4/ip_forward", "1");
    gateway.namespace.ip("addr add 10.0.0.1/24 dev lan");
    network
        .internet
        .ip(&format!("route add {PUBLIC}/32 via {}", gateway.v4));
    home.namespace.ip(&format!(
        "link set eth0 down
         addr add {INSIDE}/24 dev lan
         route replace default via 10.0.0.1"
    ));
    if !gateway.namespace.iptables(&format!(
        "-t nat -A PREROUTING -d {PUBLIC} -j DNAT --to-destination {INSIDE}
-t nat -A POSTROUTING -s {INSIDE} -o eth0 -j SNAT --to-source {PUBLIC}"
    )) {
        return;
    }
    let relay = relay_on(
        &home,
        json!({
            "realm": REALM,
            "secrets": [SECRET],
            "relay": {"addresses": [INSIDE], "external": {INSIDE.to_string(): PUBLIC}},
        }),
    );
    relay.assert_says("5.0.9.9 (here 10.0.0.5)");
    assert!(!relay.log().contains("cannot be reached from the internet"));

    let at_relay = SocketAddr::from((PUBLIC, 3478));
    let mut client = at.udp_client(at_relay);
    let relayed = client.allocate();
    assert_eq!(relayed.ip(), PUBLIC);
    let peer = elsewhere.peer();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    client.send_on(0x4000, b"out");
    assert_eq!(peer.receive(), (b"out".to_vec(), relayed));
    peer.send(relayed, b"in");
    assert_eq!(client.relayed(), Relayed::On(0x4000, b"in".to_vec()));

    // clients of this relay know each other by what they were told, which its host knows nothing of
    let mut other = elsewhere.udp_client(at_relay);
    let at_other = other.allocate();
    assert_eq!(client.bind(0x4001, at_other), None);
    assert_eq!(other.permit(PUBLIC), None);
    client.send_on(0x4001, b"across");
    let expected = Relayed::From(relayed, b"across".to_vec());
    assert_eq!(other.relayed(), expected);
    assert_eq!(relay.metric("packets_total", "client_to_client"), 1);

    // the private address is a private address, and the host's own
    assert_eq!(client.permit(INSIDE), Some(403));
    let mut permissive = relay;
    permissive.reload(&json!({"peers": {"allow": ["10.0.0.0/30"]}}));
    assert_eq!(client.permit(Ipv4Addr::new(10, 0, 0, 1)), None);
    assert_eq!(client.permit(Ipv4Addr::new(10, 0, 0, 77)), Some(403));
}
