//! RFC 8656 §21, Security Considerations, and what the documentation of [`turn_relay_proto::policy`] promises: whom clients reach, and what
//! strangers can bring the relay to do.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use turn_relay_proto::{
    FiveTuple,
    address::{Family, Transport},
    config::RelayAddress,
    counters::{Denial, DropReason},
    policy::PeerPolicy,
};

use crate::support::{
    client::Client,
    stun::{BINDING, CREATE_PERMISSION, Draft},
    world::{RELAY_V4, RELAY_V6, World, config, policy, relay_address, socket},
};

/// Addresses of every network that no relay should let anybody into, first and last and one between.
const SPECIAL: &[&str] = &[
    // IANA's registry for IPv4, multicast and class E
    "0.0.0.1",
    "0.255.255.255",
    "10.0.0.0",
    "10.1.2.3",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.255",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.0.0",
    "192.168.255.255",
    "192.175.48.1",
    "198.18.0.0",
    "198.19.255.255",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.254",
    "255.255.255.255",
    "0.0.0.0",
    // IPv6
    "::",
    "::1",
    "::7f00:1",
    "::a00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:1ff:ffff::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "2620:4f:8000::1",
    "3fff::1",
    "3fff:fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fdff::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
];

/// A world with the built-in policy and nothing else, and a client with both families.
fn strict() -> (World, Client, SocketAddr, SocketAddr) {
    let mut world = World::with(|config| config.policy = Arc::new(PeerPolicy::default()));
    let (client, v4, v6) = Client::dual(&mut world, "alice");
    (world, client, v4, v6)
}

#[test]
fn special_networks_are_denied_on_every_way_in() {
    let (mut world, mut client, ..) = strict();
    for ip in SPECIAL {
        let peer = SocketAddr::new(ip.parse().unwrap(), 9);
        client.create_permissions(&mut world, &[peer]).error(403);
        client.bind(&mut world, 0x4000, peer).error(403);
        client.send(&mut world, peer, b"data").nothing();
    }
}

#[test]
fn public_addresses_are_allowed() {
    let (mut world, mut client, ..) = strict();
    for ip in [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "172.32.0.1",
        "2a00::1",
        "2600::1",
        "2400::1",
    ] {
        let peer = SocketAddr::new(ip.parse().unwrap(), 9);
        client.permit(&mut world, peer);
        assert!(client.reaches(&mut world, peer), "{ip}");
    }
}

#[test]
fn allow_wins_over_deny_and_over_the_built_in_list() {
    let mut world = World::with(|config| {
        config.policy = Arc::new(PeerPolicy {
            allow: vec![
                "10.1.0.0/16".parse().unwrap(),
                "8.8.8.8/32".parse().unwrap(),
            ],
            deny: vec!["10.0.0.0/8".parse().unwrap(), "8.8.0.0/16".parse().unwrap()],
            ..PeerPolicy::default()
        });
    });
    let (mut client, _) = Client::allocated(&mut world, "alice");
    for (ip, allowed) in [
        ("10.1.2.3:9", true),
        ("10.2.2.3:9", false),
        ("8.8.8.8:9", true),
        ("8.8.4.4:9", false),
        ("9.9.9.9:9", true),
    ] {
        let answer = client.create_permissions(&mut world, &[socket(ip)]);
        assert_eq!(answer.is_success(), allowed, "{ip}");
        assert_eq!(client.reaches(&mut world, socket(ip)), allowed, "{ip}");
    }
}

#[test]
fn what_is_no_peer_cannot_be_allowed() {
    let mut world = World::with(|config| {
        config.policy = Arc::new(PeerPolicy {
            allow: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            ..PeerPolicy::default()
        });
    });
    let (mut client, ..) = Client::dual(&mut world, "alice");
    for ip in [
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "239.1.1.1",
        "255.255.255.255",
        "ff02::1",
        "ff0e::1",
    ] {
        let peer = SocketAddr::new(ip.parse().unwrap(), 9);
        client.create_permissions(&mut world, &[peer]).error(403);
        client.bind(&mut world, 0x4000, peer).error(403);
        client.send(&mut world, peer, b"data").nothing();
    }
    // and everything else can
    let peer = socket("127.0.0.1:9");
    client.permit(&mut world, peer);
    assert!(client.reaches(&mut world, peer));
}

#[test]
fn denied_ports_are_denied_at_allowed_addresses_too() {
    let mut world = World::with(|config| {
        let mut policy = policy();
        policy.deny_ports = vec![53, 11_211];
        config.policy = Arc::new(policy);
    });
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let peer = |port| SocketAddr::new([198, 51, 100, 1].into(), port);
    client.permit(&mut world, peer(53));
    for port in [53, 11_211] {
        assert!(!client.reaches(&mut world, peer(port)));
        assert!(client.hears(&mut world, relayed, peer(port)).is_none());
        client.bind(&mut world, 0x4000, peer(port)).error(403);
    }
    assert!(client.reaches(&mut world, peer(54)));
    assert!(client.hears(&mut world, relayed, peer(54)).is_some());
    assert!(world.counters[0].denials.get(Denial::Send) + world.drops(DropReason::Policy) > 0);
}

#[test]
fn a_peer_that_a_reload_denies_is_not_relayed_to_any_more_nor_from() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let (in_indications, in_a_channel) = (socket("198.51.100.1:9"), socket("198.51.100.2:9"));
    client.permit(&mut world, in_indications);
    client.bind(&mut world, 0x4000, in_a_channel).success();
    world.reconfigure(|config| {
        let mut policy = policy();
        policy.allow.clear();
        config.policy = Arc::new(policy);
    });
    let outcome = client.send(&mut world, in_indications, b"data");
    outcome.silence();
    let outcome = client.send_on(&mut world, 0x4000, b"data");
    outcome.silence();
    world.peer_says(relayed, in_indications, b"data").silence();
    world.peer_says(relayed, in_a_channel, b"data").silence();
    client.bind(&mut world, 0x4000, in_a_channel).error(403);
    client
        .create_permissions(&mut world, &[in_indications])
        .error(403);
    assert_eq!(world.allocations(), 1, "the allocation stays");
    // and allowed again, what is left of the permissions counts again
    world.reconfigure(|config| config.policy = Arc::new(policy()));
    assert!(client.reaches(&mut world, in_indications));
    let outcome = client.send_on(&mut world, 0x4000, b"data");
    assert_eq!(outcome.to_peer().peer, in_a_channel);
}

#[test]
fn a_peer_that_a_reload_allows_may_be_permitted() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let peer = socket("10.0.0.1:9");
    client.create_permissions(&mut world, &[peer]).error(403);
    world.reconfigure(|config| {
        let mut policy = policy();
        policy.allow.push("10.0.0.0/24".parse().unwrap());
        config.policy = Arc::new(policy);
    });
    client.permit(&mut world, peer);
    assert!(client.reaches(&mut world, peer));
}

#[test]
fn the_hosts_own_addresses_are_no_peers() {
    // public ones, too, and the one that sockets are bound to behind a NAT
    let mut world = World::with(|config| {
        config.relay_addresses[0] = RelayAddress {
            bind: "10.0.0.5".parse().unwrap(),
            advertised: RELAY_V4.parse().unwrap(),
        };
        config.policy = Arc::new(PeerPolicy {
            own: ["10.0.0.5", "9.9.9.9", "2a00::5"]
                .map(|ip| ip.parse().unwrap())
                .to_vec(),
            ..policy()
        });
    });
    let (mut client, ..) = Client::dual(&mut world, "alice");
    for own in [
        "10.0.0.5:9",
        "9.9.9.9:443",
        "[2a00::5]:22",
        "127.0.0.1:3480",
    ] {
        client
            .create_permissions(&mut world, &[socket(own)])
            .error(403);
        client.bind(&mut world, 0x4000, socket(own)).error(403);
        client.send(&mut world, socket(own), b"data").nothing();
    }
}

#[test]
fn a_relayed_address_is_a_peer_and_its_host_is_not() {
    // a permission knows no ports; that nothing but relayed addresses is behind it is seen when data are sent. Whether the address is public makes no
    // difference.
    for addresses in [[RELAY_V4, RELAY_V6], ["9.9.9.7", "2a00::7"]] {
        let mut world = World::with(|config| {
            config.relay_addresses = addresses.map(relay_address).to_vec();
            config.policy = Arc::new(PeerPolicy::default());
        });
        let (mut client, v4, v6) = Client::dual(&mut world, "alice");
        for relayed in [v4, v6] {
            client.permit(&mut world, relayed);
            for port in [1, 22, 80, 443, 3478, 5349, 49_999, 50_500, 51_000, 65_535] {
                let peer = SocketAddr::new(relayed.ip(), port);
                if world.relay(peer).is_some() {
                    continue;
                }
                client.send(&mut world, peer, b"data").nothing();
                let channel = 0x4000 + port % 0x1000;
                client.bind(&mut world, channel, peer);
                client.send_on(&mut world, channel, b"data").nothing();
                world.peer_says(relayed, peer, b"data").nothing();
            }
        }
        assert!(world.drops(DropReason::NoSuchRelay) >= 20);
    }
}

#[test]
fn one_of_the_relays_own_addresses_is_a_peer_although_the_list_would_deny_it() {
    let (mut world, mut client, ..) = strict();
    client.permit(&mut world, SocketAddr::new(RELAY_V4.parse().unwrap(), 1));
    client.permit(&mut world, SocketAddr::new(RELAY_V6.parse().unwrap(), 1));
    // the neighbour is not
    client
        .create_permissions(&mut world, &[socket("203.0.113.8:1")])
        .error(403);
}

#[test]
fn teredo_and_6to4_clients_are_not_answered() {
    // §21.4
    let mut world = World::new();
    for client in [
        "[2001::1]:5000",
        "[2001:0:4136:e378:8000:63bf:3fff:fdd2]:5000",
        "[2002:c000:204::1]:5000",
        "[2002::1]:5000",
    ] {
        let mut five_tuple = world.five_tuple_over(Transport::Udp, Family::V6);
        five_tuple.client = socket(client);
        let binding = Draft::request(BINDING).finish();
        world.client_says(0, five_tuple, &binding).silence();
        world
            .client_says(0, five_tuple, &Draft::allocate().finish())
            .silence();
    }
    // their neighbours are
    for client in ["[2001:db8::1]:5000", "[2003::1]:5000", "[2001:1::1]:5000"] {
        let mut five_tuple = world.five_tuple_over(Transport::Udp, Family::V6);
        five_tuple.client = socket(client);
        let binding = Draft::request(BINDING).finish();
        assert_eq!(
            world.client_says(0, five_tuple, &binding).stun().mapped(),
            socket(client)
        );
    }
}

#[test]
fn a_client_at_port_0_is_not_answered() {
    let mut world = World::new();
    let mut five_tuple = world.five_tuple();
    five_tuple.client.set_port(0);
    let binding = Draft::request(BINDING).finish();
    world.client_says(0, five_tuple, &binding).silence();
    world
        .client_says(0, five_tuple, &Draft::allocate().finish())
        .silence();
}

/// Answers to `count` requests of strangers from addresses that `address` gives.
fn answers(
    world: &mut World,
    count: u16,
    address: impl Fn(u16) -> SocketAddr,
    request: &Draft,
) -> usize {
    let link = world.five_tuple().link;
    let bytes = request.clone().finish();
    (0..count)
        .filter(|number| {
            let five_tuple = FiveTuple {
                client: address(*number),
                link,
                transport: Transport::Udp,
            };
            !world
                .client_says(0, five_tuple, &bytes)
                .to_clients
                .is_empty()
        })
        .count()
}

#[test]
fn one_prefix_is_answered_so_often_and_no_more() {
    for request in [
        Draft::request(BINDING),
        Draft::allocate(),
        Draft::request(CREATE_PERMISSION),
    ] {
        let mut world = World::with(|config| config.quotas.unauthenticated_per_prefix = 20);
        // hosts of one /24
        let v4 = |number: u16| {
            let host = u8::try_from(number % 250).unwrap();
            SocketAddr::new([9, 9, 9, host].into(), 1000 + number)
        };
        let answered = answers(&mut world, 200, v4, &request);
        assert!((20..=21).contains(&answered), "{answered}");
        assert_eq!(
            world.drops(DropReason::UnauthenticatedBudget),
            200 - u64::try_from(answered).unwrap()
        );
        // hosts of one /48
        let v6 =
            |number: u16| SocketAddr::new([0x2a00, 1, 2, number, number, 0, 0, 1].into(), 1000);
        let answered = answers(&mut world, 200, v6, &request);
        assert!((20..=21).contains(&answered), "{answered}");
    }
}

#[test]
fn the_budget_of_a_prefix_comes_back_within_a_second() {
    let mut world = World::with(|config| config.quotas.unauthenticated_per_prefix = 20);
    let request = Draft::request(BINDING);
    let address = |number: u16| SocketAddr::new([9, 9, 9, 9].into(), 1000 + number);
    for _ in 0..5 {
        let answered = answers(&mut world, 100, address, &request);
        assert!((20..=21).contains(&answered), "{answered}");
        world.pass(Duration::from_millis(500));
        let answered = answers(&mut world, 100, address, &request);
        assert!((9..=11).contains(&answered), "{answered}");
        world.pass(Duration::from_secs(2));
    }
}

#[test]
fn over_streams_everybody_is_answered() {
    // nobody can pretend to be somewhere else there, so that nothing is reflected
    let mut world = World::with(|config| config.quotas.unauthenticated_per_prefix = 20);
    for transport in [Transport::Tcp, Transport::Tls] {
        for _ in 0..100 {
            let mut client = Client::over(&mut world, "alice", transport, Family::V4);
            client.challenge(&mut world);
            assert!(client.binding(&mut world).stun().is_success());
        }
    }
}

#[test]
fn a_flood_from_one_prefix_takes_nothing_from_most_others() {
    let mut world = World::with(|config| config.quotas.unauthenticated_per_prefix = 20);
    let request = Draft::request(BINDING);
    answers(&mut world, 1000, |_| socket("9.9.9.9:1000"), &request);
    let others = |number: u16| {
        let [high, low] = number.to_be_bytes();
        SocketAddr::new([8, high, low, 1].into(), 1000)
    };
    assert!(answers(&mut world, 1000, others, &request) >= 990);
}

#[test]
fn who_has_authenticated_is_answered_in_a_flood() {
    // what costs the flooded prefix its answers is no budget of authentic requests
    let mut world = World::with(|config| config.quotas.unauthenticated_per_prefix = 20);
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let prefix = client.five_tuple.client.ip();
    let request = Draft::request(BINDING);
    answers(
        &mut world,
        1000,
        |number| SocketAddr::new(prefix, 2000 + number),
        &request,
    );
    for _ in 0..100 {
        client.refresh(&mut world, 600).success();
    }
}

#[test]
fn what_pretends_to_come_from_who_has_an_allocation_is_answered_as_seldom_as_from_others() {
    // an address in a packet proves nothing, whoever has it
    let mut world = World::with(|config| config.quotas.unauthenticated_per_prefix = 20);
    let (mut client, _) = Client::allocated(&mut world, "alice");
    let mut neighbour = Client::new(&mut world, "bob");
    let binding = Draft::request(BINDING).finish();
    let answered = |world: &mut World, client: &Client| {
        let packets = 0..200;
        packets
            .filter(|_| !client.put(world, &binding).to_clients.is_empty())
            .count()
    };
    assert_eq!(answered(&mut world, &client), 20);
    // it costs nobody else, and nothing that is authentic
    client.refresh(&mut world, 600).success();
    neighbour.challenge(&mut world);
    // nor does the prefix cost who has an allocation
    assert!(answered(&mut world, &neighbour) < 20);
    world.advance(Duration::from_secs(1));
    assert_eq!(answered(&mut world, &neighbour), 20);
    assert_eq!(answered(&mut world, &client), 20);
}

#[test]
fn an_authentic_request_that_is_sent_from_elsewhere_is_answered_as_seldom_as_a_strangers() {
    // whoever has credentials, or a copy of a request, can send it as if it came from a victim: the nonce is not the victim's
    let mut world = World::with(|config| config.quotas.unauthenticated_per_prefix = 20);
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let request = client.sign(Draft::allocate());
    let victim = world.five_tuple();
    let mut answered = 0;
    for _ in 0..200 {
        let outcome = world.client_says(0, victim, &request);
        answered += outcome.to_clients.len();
        assert!(outcome.to_clients.is_empty() || outcome.stun().code() == Some(438));
    }
    assert!((1..=20).contains(&answered), "{answered}");
}

#[test]
fn a_wrong_password_is_answered_as_seldom_as_no_password() {
    let mut world = World::with(|config| config.quotas.unauthenticated_per_prefix = 20);
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    "wrong".clone_into(&mut client.password);
    let answered = (0..200)
        .filter(|_| {
            let bytes = client.sign(Draft::allocate());
            !client.put(&mut world, &bytes).to_clients.is_empty()
        })
        .count();
    assert!(answered <= 20, "{answered}");
}

#[test]
fn an_answer_that_says_what_lacks_is_answered_as_seldom_as_no_password() {
    // 400 without credentials, and 420 of a Binding request
    let mut world = World::with(|config| config.quotas.unauthenticated_per_prefix = 20);
    let client = Client::new(&mut world, "alice");
    let mut answered = 0;
    for _ in 0..100 {
        let lacking = Draft::allocate().integrity(client.protection.hmac(), &client.key());
        answered += client.put(&mut world, &lacking.finish()).to_clients.len();
        let unknown = Draft::request(BINDING).with(0x7777, b"");
        answered += client.put(&mut world, &unknown.finish()).to_clients.len();
    }
    assert!(answered <= 21, "{answered}");
}

#[test]
fn no_answer_to_a_stranger_is_much_longer_than_its_request() {
    // the longest answer to the shortest request that gets one: 92 bytes to 20
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    client.challenge(&mut world);
    let unknown = (0..50).fold(Draft::request(BINDING), |draft, number| {
        draft.with(0x4000 + number, b"")
    });
    let requests = [
        Draft::request(BINDING).finish(),
        Draft::allocate().finish(),
        Draft::request(CREATE_PERMISSION).finish(),
        client.identify(Draft::allocate()).finish(),
        unknown.finish(),
    ];
    for request in requests {
        let answer = client.ask(&mut world, &request);
        assert!(answer.bytes.len() <= 92, "{answer:?}");
        assert!(
            answer.bytes.len() * 10 <= request.len() * 46,
            "{} bytes to {}",
            answer.bytes.len(),
            request.len()
        );
    }
}

#[test]
fn strangers_are_told_nothing_about_the_software() {
    // §21.1: a version is a help to who looks for a hole
    let mut world = World::new();
    let mut client = Client::new(&mut world, "alice");
    let software = crate::support::stun::attribute::SOFTWARE;
    assert!(!client.challenge(&mut world).has(software));
    assert!(!client.binding(&mut world).stun().has(software));
    let lacking = Draft::allocate().integrity(client.protection.hmac(), &client.key());
    assert!(!client.ask(&mut world, &lacking.finish()).has(software));
}

#[test]
fn who_has_not_authenticated_leaves_nothing_behind() {
    let mut world = World::of(1, config(), 50_000..=50_999, 1);
    for _ in 0..1000 {
        let mut client = Client::new(&mut world, "alice");
        client.challenge(&mut world);
        "wrong".clone_into(&mut client.password);
        let bytes = client.sign(Draft::allocate());
        client.put(&mut world, &bytes);
        client.send_on(&mut world, 0x4000, b"data");
    }
    assert_eq!(world.allocations(), 0);
    assert_eq!(world.open_sockets().count(), 0);
    assert_eq!(
        world.servers[0].next_timeout(),
        None,
        "and nothing to be done later"
    );
}

#[test]
fn a_loop_through_two_relayed_addresses_costs_the_bandwidth_of_who_makes_it() {
    // §21.1.7: a packet that goes from one relayed address to another comes to a client, which sends it back or does not; the server sends none by itself
    let mut world = World::with(|config| {
        config.quotas.bandwidth_per_user = Some(1000);
        config.relay_addresses = ["203.0.113.7", "203.0.113.8"].map(relay_address).to_vec();
    });
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    client.permit(&mut world, relayed);
    // to itself
    let mut sent = 0;
    for _ in 0..1000 {
        let outcome = client.send(&mut world, relayed, &[0; 1000]);
        sent += outcome.to_clients.len();
        assert!(outcome.to_clients.len() <= 1 && outcome.to_peers.is_empty());
    }
    assert!(sent <= 66, "{sent}: a burst of 64 KiB");
}

#[test]
fn another_port_of_a_relay_address_is_a_peer_if_it_is_allowed_by_name() {
    // an SFU on the same host, say
    let mut world = World::with(|config| {
        config.policy = Arc::new(PeerPolicy {
            allow: vec!["203.0.113.7/32".parse().unwrap()],
            deny_ports: vec![22],
            ..PeerPolicy::default()
        });
    });
    let (mut client, relayed) = Client::allocated(&mut world, "alice");
    let at = |port| SocketAddr::new(relayed.ip(), port);
    client.permit(&mut world, at(7881));
    client.bind(&mut world, 0x4000, at(7882)).success();
    assert!(client.reaches(&mut world, at(7881)));
    let outcome = client.send_on(&mut world, 0x4000, b"data");
    assert_eq!(outcome.to_peer().peer, at(7882));
    assert!(client.hears(&mut world, relayed, at(7881)).is_some());
    client.send(&mut world, at(22), b"data").nothing();
    // a port that another client has is that client all the same
    let (mut other, at_other) = Client::allocated(&mut world, "bob");
    other.permit(&mut world, relayed);
    let outcome = client.send(&mut world, at_other, b"data");
    assert_eq!(outcome.stun().peer(), relayed);
    assert_eq!(outcome.to_clients[0].client, other.five_tuple);
}

#[test]
fn what_comes_from_another_port_of_a_relay_address_is_not_relayed_unless_it_is_allowed_by_name() {
    let (mut world, mut client, v4, v6) = strict();
    for relayed in [v4, v6] {
        client.permit(&mut world, relayed);
        for port in [22, 3478, 7881, 50_555] {
            let peer = SocketAddr::new(relayed.ip(), port);
            world.peer_says(relayed, peer, b"data").nothing();
        }
    }
}
