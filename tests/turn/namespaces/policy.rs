//! The peer policy, with somebody at each address who would hear.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use serde_json::{Value, json};

use super::{
    addresses::relay_on,
    network::{Host, Network},
};
use crate::{
    client::{
        CONNECT, Client, Peer, REALM, Relayed, SECRET, ipv6_too, peer, tcp_transport, udp_transport,
    },
    relay::Relay,
};

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn config(allow: &[&str]) -> Value {
    json!({"realm": REALM, "secrets": [SECRET], "peers": {"allow": allow}})
}

/// A client with an allocation of both families.
fn client(at: &Host, home: &Host) -> (Client, SocketAddr) {
    let mut client = at.udp_client((home.v4, 3478));
    let relayed = client.allocate_with(&[udp_transport(), ipv6_too()]);
    (client, relayed)
}

/// That a client reaches nobody there, by whichever way, and nobody there reaches the client.
fn assert_unreachable(relay: &Relay, client: &mut Client, relayed: SocketAddr, peer: &Peer) {
    let address = peer.address();
    let before = relay.metric("drops_total", "");
    assert_eq!(client.permit(address.ip()), Some(403), "{address}");
    assert_eq!(client.bind(0x4FFF, address), Some(403), "{address}");
    client.send_to(address, b"knock");
    client.send_on(0x4FFF, b"knock");
    let mut dropped = 2;
    if address.is_ipv4() && peer.0.send_to(b"boo", relayed).is_ok() {
        dropped += 1;
    }
    let counted = crate::time::eventually(|| relay.metric("drops_total", "") == before + dropped);
    assert!(counted, "{address}: {}", relay.metrics());
    let heard = peer.receive_within(std::time::Duration::from_millis(1));
    assert_eq!(heard, None, "{address}");
}

/// That a client reaches somebody there, and somebody there the client.
fn assert_reachable(client: &mut Client, relayed: SocketAddr, peer: &Peer) {
    assert_eq!(
        client.permit(peer.address().ip()),
        None,
        "{}",
        peer.address()
    );
    client.send_to(peer.address(), b"knock");
    assert_eq!(peer.receive(), (b"knock".to_vec(), relayed));
    peer.send(relayed, b"who is there");
    let expected = Relayed::From(peer.address(), b"who is there".to_vec());
    assert_eq!(client.relayed(), expected);
}

#[test]
fn private_peers_are_unreachable_unless_they_are_allowed() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at] = [1, 2].map(|number| network.host(number));
    let private = [
        ([10, 77, 0, 2], [10, 77, 0, 1]),
        ([192, 168, 77, 2], [192, 168, 77, 1]),
        ([172, 16, 77, 2], [172, 16, 77, 1]),
        ([100, 64, 77, 2], [100, 64, 77, 1]),
    ];
    let peers: Vec<_> = (3..)
        .zip(private)
        .map(|(number, (address, router))| {
            let host = network.private_host(number, address.into(), router.into());
            host.peer()
        })
        .collect();
    let mut relay = relay_on(&home, config(&[]));
    let (mut client, relayed) = client(&at, &home);
    for peer in &peers {
        assert_unreachable(&relay, &mut client, relayed, peer);
    }
    // each by itself
    relay.reload(&json!({"peers": {"allow": ["192.168.77.0/24"]}}));
    assert_reachable(&mut client, relayed, &peers[1]);
    for index in [0, 2, 3] {
        assert_unreachable(&relay, &mut client, relayed, &peers[index]);
    }
    relay.reload(&json!({"peers": {
        "allow": ["10.77.0.2/32", "172.16.0.0/12", "100.64.0.0/10"],
        "deny": ["10.0.0.0/8"],
    }}));
    for index in [0, 2, 3] {
        assert_reachable(&mut client, relayed, &peers[index]);
    }
    assert_eq!(client.permit([10, 77, 0, 3]), Some(403));
}

#[test]
fn the_metadata_service_is_unreachable() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, cloud] = [1, 2, 3].map(|number| network.host(number));
    cloud
        .namespace
        .ip(&format!("addr add {METADATA}/32 dev lo"));
    network
        .internet
        .ip(&format!("route add {METADATA}/32 via {}", cloud.v4));
    let service = cloud.peer_on((METADATA, 80).into());
    let mut relay = relay_on(&home, config(&[]));
    let (mut client, relayed) = client(&at, &home);
    assert_unreachable(&relay, &mut client, relayed, &service);
    // by no other name, either
    for other in [
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
    ] {
        let address: Ipv6Addr = other.parse().unwrap();
        assert_eq!(client.permit(address), Some(403), "{other}");
    }
    // it is there: whoever allows it gets it
    relay.reload(&json!({"peers": {"allow": ["169.254.0.0/16"]}}));
    relay.assert_says("where clouds have their metadata services");
    assert_reachable(&mut client, relayed, &service);
}

#[test]
fn services_of_the_relays_own_host_are_unreachable_at_each_of_its_addresses() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at] = [1, 2].map(|number| network.host(number));
    // a second public address, which clients are not told
    home.namespace.ip("addr add 5.0.1.3/24 dev eth0
         addr add 2a00:5:1::3/64 dev eth0 nodad
         addr add 10.5.5.5/24 dev eth0");
    let mut config = config(&[]);
    config["relay"] = json!({"addresses": [home.v4, home.v6]});
    let mut relay = relay_on(&home, config);
    let (mut client, relayed) = client(&at, &home);
    let services: Vec<_> = ["5.0.1.3", "2a00:5:1::3", "10.5.5.5", "127.0.0.1", "::1"]
        .iter()
        .map(|text| home.peer_at(text.parse::<IpAddr>().unwrap()))
        .collect();
    for service in &services {
        let address = service.address();
        assert_eq!(client.permit(address.ip()), Some(403), "{address}");
        assert_eq!(client.bind(0x4FFF, address), Some(403), "{address}");
        client.send_to(address, b"knock");
    }
    relay.assert_dropped("no_permission", 5);

    // at the address that clients are told there are other clients, and nobody else
    let told: Vec<_> = [IpAddr::from(home.v4), home.v6.into()]
        .map(|address| home.peer_at(address))
        .into();
    for service in &told {
        assert_eq!(client.permit(service.address().ip()), None);
        client.send_to(service.address(), b"knock");
        client.send_to(SocketAddr::new(service.address().ip(), 3478), b"knock");
    }
    relay.assert_dropped("no_such_relay", 4);
    for service in services.iter().chain(&told) {
        let heard = service.receive_within(std::time::Duration::from_millis(1));
        assert_eq!(heard, None, "{}", service.address());
    }
    let health = (Ipv4Addr::LOCALHOST, 3480).into();
    assert_eq!(client.bind(0x4FFE, health), Some(403));

    // an address that the host gets later is its own as well, after a reload at the latest
    home.namespace.ip("addr add 5.0.1.4/24 dev eth0");
    relay.reload(&json!({}));
    let late = home.peer_at([5, 0, 1, 4]);
    assert_unreachable(&relay, &mut client, relayed, &late);
}

#[test]
fn a_service_beside_the_relay_is_reachable_when_it_is_named() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at] = [1, 2].map(|number| network.host(number));
    let service = home.peer();
    let mut relay = relay_on(&home, config(&[]));
    let (mut client, relayed) = client(&at, &home);
    assert_eq!(client.permit(home.v4), None);
    client.send_to(service.address(), b"knock");
    relay.assert_dropped("no_such_relay", 1);
    let named = format!("{}/32", home.v4);
    relay.reload(&json!({"peers": {"allow": [named]}}));
    assert_reachable(&mut client, relayed, &service);
}

/// RFC 8656 §21.4
#[test]
fn clients_at_6to4_and_teredo_addresses_are_not_answered() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at] = [1, 2].map(|number| network.host(number));
    let relay = relay_on(&home, config(&[]));
    for address in ["2002:500:202::2", "2001:0:500:202::2"] {
        at.namespace
            .ip(&format!("addr add {address}/64 dev eth0 nodad"));
        network
            .internet
            .ip(&format!("route add {address}/128 via {}", at.v6));
        let at_relay = SocketAddr::from((home.v6, 3478));
        let from: IpAddr = address.parse().unwrap();
        let mut wire = at
            .namespace
            .inside(|| crate::wire::udp_from(from, at_relay));
        wire.send(&crate::client::request(crate::client::BINDING, &[]))
            .unwrap();
        let answer = wire.receive(crate::time::SILENCE);
        assert_eq!(answer, crate::wire::Received::Nothing, "{address}");
    }
    assert_eq!(relay.metric("bindings_total", ""), 0);
    // the way is there: from the address beside them somebody is answered
    let mut client = at.udp_client((home.v6, 3478));
    client.ask(crate::client::BINDING, &[]);
}

#[test]
fn nothing_that_listens_on_the_relays_own_addresses_is_connected_to() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    home.namespace.ip("addr add 5.0.1.3/24 dev eth0");
    let mut config = config(&[]);
    config["relay"] = json!({"tcp": true});
    let _relay = relay_on(&home, config);
    let mut client = at.tcp_client((home.v4, 3478));
    client.allocate_with(&[tcp_transport()]);
    let listen = |host: &Host, address: IpAddr| {
        let listener = host.namespace.inside(|| TcpListener::bind((address, 0)));
        let listener = listener.unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    // the address that clients are told, one that they are not, and loopback
    let own = [home.v4, Ipv4Addr::new(5, 0, 1, 3), Ipv4Addr::LOCALHOST];
    for address in own {
        let service = listen(&home, address.into());
        let to = service.local_addr().unwrap();
        assert_eq!(client.ask(CONNECT, &[peer(to)]).code(), Some(403), "{to}");
        let nobody = service.accept().map_err(|error| error.kind());
        assert_eq!(nobody.unwrap_err(), ErrorKind::WouldBlock, "{to}");
    }
    // others are
    let service = listen(&elsewhere, elsewhere.v4.into());
    let to = service.local_addr().unwrap();
    assert_eq!(client.ask(CONNECT, &[peer(to)]).code(), None);
    assert!(service.accept().is_ok());
}
