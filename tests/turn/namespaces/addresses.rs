//! Which addresses the relay finds, tells and answers from.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::network::{Host, Network};
use crate::{
    client::{
        BINDING, REALM, Relayed, SECRET, XOR_MAPPED_ADDRESS, XOR_RELAYED_ADDRESS, channel, ipv6,
        ipv6_too, udp_transport,
    },
    relay::{Relay, Setup},
    time::eventually,
};

/// The least that a configuration has.
fn least() -> Value {
    json!({"realm": REALM, "secrets": [SECRET]})
}

/// A relay on a host, at the usual ports of all its addresses.
pub(crate) fn relay_on(host: &Host, config: Value) -> Relay {
    Setup::whole(config).within(&host.namespace).start()
}

#[test]
fn a_realm_and_a_secret_are_all_that_a_public_host_needs() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let relay = relay_on(&home, least());
    let log = relay.log();
    let line = log
        .lines()
        .find(|line| line.contains("clients will be told"));
    let line = line.unwrap_or_else(|| panic!("nothing is said: {log}"));
    for word in [
        home.v4.to_string(),
        home.v6.to_string(),
        "found from the routing table".to_owned(),
    ] {
        assert!(line.contains(&word), "{word}: {line}");
    }
    assert!(
        !log.contains("cannot be reached from the internet"),
        "{log}"
    );

    // over IPv4 to IPv4, over IPv6 to IPv6
    let mut client = at.udp_client((home.v4, 3478));
    let relayed = client.allocate();
    assert_eq!(relayed.ip(), home.v4);
    let peer = elsewhere.peer();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    client.send_on(0x4000, b"over IPv4");
    assert_eq!(peer.receive(), (b"over IPv4".to_vec(), relayed));
    peer.send(relayed, b"and back");
    assert_eq!(client.relayed(), Relayed::On(0x4000, b"and back".to_vec()));

    let mut client = at.udp_client((home.v6, 3478));
    let relayed = client.allocate_with(&[udp_transport(), ipv6()]);
    assert_eq!(relayed.ip(), home.v6);
    let peer = elsewhere.peer_v6();
    assert_eq!(client.permit(elsewhere.v6), None);
    client.send_to(peer.address(), b"over IPv6");
    assert_eq!(peer.receive(), (b"over IPv6".to_vec(), relayed));
    peer.send(relayed, b"and back");
    let expected = Relayed::From(peer.address(), b"and back".to_vec());
    assert_eq!(client.relayed(), expected);
}

#[test]
fn one_allocation_may_have_an_address_of_each_family() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let _relay = relay_on(&home, least());
    // whichever family the client itself has
    for relay in [SocketAddr::from((home.v4, 3478)), (home.v6, 3478).into()] {
        let mut client = at.udp_client(relay);
        let answer = client.ask(crate::client::ALLOCATE, &[udp_transport(), ipv6_too()]);
        assert_eq!(answer.code(), None);
        let [v4, v6] = [0, 1].map(|index| answer.xor_nth(XOR_RELAYED_ADDRESS, index).unwrap());
        assert_eq!((v4.ip(), v6.ip()), (home.v4.into(), home.v6.into()));
        for (number, peer, relayed) in [
            (0x4000, elsewhere.peer(), v4),
            (0x4001, elsewhere.peer_v6(), v6),
        ] {
            assert_eq!(client.bind(number, peer.address()), None);
            client.send_on(number, b"hello");
            assert_eq!(peer.receive(), (b"hello".to_vec(), relayed));
            peer.send(relayed, b"and back");
            assert_eq!(client.relayed(), Relayed::On(number, b"and back".to_vec()));
        }
    }
}

#[test]
fn answers_and_data_leave_from_the_address_that_was_asked() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    home.namespace.ip("addr add 5.0.1.3/24 dev eth0
         addr add 5.0.1.4/24 dev eth0
         addr add 2a00:5:1::3/64 dev eth0 nodad
         addr add 2a00:5:1::4/64 dev eth0 nodad");
    let relay = relay_on(&home, least());
    let asked = [
        "5.0.1.2:3478",
        "5.0.1.3:3478",
        "5.0.1.4:3478",
        "[2a00:5:1::2]:3478",
        "[2a00:5:1::3]:3478",
        "[2a00:5:1::4]:3478",
    ];
    let peer = elsewhere.peer();
    for relay_address in asked {
        let address: SocketAddr = relay_address.parse().unwrap();
        // its socket is connected: what comes from another address does not come
        let mut client = at.udp_client(address);
        let answer = client.ask(BINDING, &[]);
        assert_eq!(
            answer.xor(XOR_MAPPED_ADDRESS),
            Some(client.wire.local_address()),
            "{relay_address}"
        );
        let relayed = client.allocate();
        assert_eq!(client.bind(0x4000, peer.address()), None);
        // of one client, some packets after another: some go as segments of one
        for _ in 0..3 {
            for number in 0..20 {
                peer.send(relayed, &[number; 100]);
            }
            for number in 0..20 {
                assert_eq!(client.relayed(), Relayed::On(0x4000, vec![number; 100]));
            }
        }
    }
    assert_eq!(relay.metric("drops_total", ""), 0);
    assert_eq!(relay.allocations(), 6);
}

#[test]
fn a_client_of_one_family_reaches_peers_of_the_other() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at, elsewhere] = [1, 2, 3].map(|number| network.host(number));
    let _relay = relay_on(&home, least());
    let mut six = at.udp_client((home.v6, 3478));
    let relayed = six.allocate();
    assert_eq!(relayed.ip(), home.v4);
    let peer = elsewhere.peer();
    assert_eq!(six.bind(0x4000, peer.address()), None);
    six.send_on(0x4000, b"hello");
    assert_eq!(peer.receive(), (b"hello".to_vec(), relayed));
    // and no others: 443
    assert_eq!(six.permit(elsewhere.v6), Some(443));
    let other = elsewhere.peer_v6();
    let code = six.ask(
        crate::client::CHANNEL_BIND,
        &[channel(0x4001), crate::client::peer(other.address())],
    );
    assert_eq!(code.code(), Some(443));
}

#[test]
fn without_ipv6_there_are_no_ipv6_allocations() {
    let Some(network) = Network::new() else {
        return;
    };
    let [home, at] = [1, 2].map(|number| network.host(number));
    home.namespace.ip("addr del 2a00:5:1::2/64 dev eth0");
    let relay = relay_on(&home, least());
    let log = relay.log();
    let line = log
        .lines()
        .find(|line| line.contains("clients will be told"));
    assert!(!line.unwrap().contains("2a00:"), "{line:?}");
    let mut client = at.udp_client((home.v4, 3478));
    let code = client.ask(crate::client::ALLOCATE, &[udp_transport(), ipv6()]);
    assert_eq!(code.code(), Some(440));
    // one of two is better than none
    let answer = client.ask(crate::client::ALLOCATE, &[udp_transport(), ipv6_too()]);
    assert_eq!(answer.code(), None);
    assert_eq!(answer.xor(XOR_RELAYED_ADDRESS).unwrap().ip(), home.v4);
}

#[test]
fn a_host_without_a_way_out_has_to_name_its_address() {
    let Some(network) = Network::new() else {
        return;
    };
    let home = network.host(1);
    home.namespace.ip("route del default\nroute del ::/0");
    let said = Setup::whole(least()).within(&home.namespace).refusal();
    assert!(said.contains("no default route"), "{said}");
    assert!(said.contains("relay.addresses"), "{said}");

    let mut config = least();
    config["relay"] = json!({"addresses": [home.v4]});
    let _relay = relay_on(&home, config);
}

#[test]
fn the_address_is_that_of_the_default_route_among_several() {
    let Some(network) = Network::new() else {
        return;
    };
    let home = network.host(1);
    let lan = network.host(2);
    home.namespace.link("eth1", &lan.namespace, "eth1");
    home.namespace.ip("addr add 10.1.1.1/24 dev eth1");
    let relay = relay_on(&home, least());
    let log = relay.log();
    let line = log
        .lines()
        .find(|line| line.contains("clients will be told"));
    assert!(line.unwrap().contains(&home.v4.to_string()), "{line:?}");
    assert!(!line.unwrap().contains("10.1.1.1"), "{line:?}");
}

#[test]
fn a_private_address_is_warned_of() {
    let Some(network) = Network::new() else {
        return;
    };
    let [inside, router] = [[10, 9, 9, 2], [10, 9, 9, 1]].map(Ipv4Addr::from);
    let home = network.private_host(1, inside, router);
    home.namespace.ip("addr del 2a00:5:1::2/64 dev eth0");
    let relay = relay_on(&home, least());
    relay.assert_says("10.9.9.2 cannot be reached from the internet");
    relay.assert_says("relay.external");
}

#[test]
fn a_temporary_address_is_not_the_one_that_is_found() {
    let Some(network) = Network::new() else {
        return;
    };
    let home = network.host(1);
    home.namespace.set("ipv6/conf/eth0/use_tempaddr", "2");
    home.namespace.ip("addr del 2a00:5:1::2/64 dev eth0
         addr add 2a00:5:1::2/64 dev eth0 nodad mngtmpaddr
         route replace default via 2a00:5:1::1");
    let has_temporary = || {
        let read = || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        let addresses = home.namespace.inside(read);
        // flags, and of them IFA_F_TEMPORARY; with it alone: it is tried no longer
        let flags = addresses
            .lines()
            .filter_map(|line| line.split_whitespace().nth(4));
        flags.into_iter().any(|flags| flags == "01")
    };
    if !eventually(has_temporary) {
        eprintln!("skipped: this kernel makes no temporary addresses");
        return;
    }
    let relay = relay_on(&home, least());
    let log = relay.log();
    let line = log
        .lines()
        .find(|line| line.contains("clients will be told"))
        .unwrap();
    assert!(line.contains(&home.v6.to_string()), "{line}");
}

#[test]
fn an_address_that_the_host_has_lost_makes_the_relay_unready() {
    let Some(network) = Network::new() else {
        return;
    };
    let home = network.host(1);
    let relay = relay_on(&home, least());
    assert_eq!(relay.get("/ready").0, 200);
    home.namespace.ip("addr del 2a00:5:1::2/64 dev eth0");
    let (status, reasons) = relay.get("/ready");
    assert_eq!(status, 503);
    assert!(reasons.contains("set `relay.addresses`"), "{reasons}");
    home.namespace.ip("addr add 2a00:5:1::2/64 dev eth0 nodad");
    assert_eq!(relay.get("/ready").0, 200);
}
