//! Credentials, quotas and lifetimes.

use std::{thread, time::Duration};

use serde_json::json;

use crate::{
    client::{
        ALLOCATE, CREATE_PERMISSION, Client, Credentials, Peer, REFRESH, SECRET,
        XOR_RELAYED_ADDRESS, even_port, lifetime, peer, udp_transport,
    },
    relay::Relay,
    time::{eventually, now, unix_seconds},
    wire,
};

fn client_with(relay: &Relay, credentials: Credentials) -> Client {
    Client::with(wire::udp(relay.udp[0]), credentials)
}

#[test]
fn every_secret_of_the_list_signs_credentials_and_no_other_does() {
    const NEW: &str = "the secret that is to come next";
    let relay = Relay::start(&json!({"secrets": [NEW, SECRET]}));
    let in_an_hour = unix_seconds() + 3600;
    for secret in [NEW, SECRET] {
        client_with(&relay, Credentials::signed(secret, in_an_hour, "alice")).allocate();
    }
    let mut mallory = client_with(
        &relay,
        Credentials::signed("the secret that is to come never", in_an_hour, "alice"),
    );
    assert_eq!(mallory.refused_allocation(), 401);
    let mut somebody = client_with(
        &relay,
        Credentials {
            username: "alice".to_owned(),
            password: "alice".to_owned(),
        },
    );
    assert_eq!(somebody.refused_allocation(), 401);
}

#[test]
fn credentials_over_sha_256_do_as_well() {
    let relay = Relay::start(&json!({}));
    let mut client = relay.udp_client();
    client.use_sha256();
    client.allocate();
    assert_eq!(client.refresh(600), Ok(600));
}

#[test]
fn an_expired_username_gets_no_allocation_and_keeps_the_one_that_it_has() {
    let relay = Relay::start(&json!({}));
    let expired = Credentials::signed(SECRET, unix_seconds() - 1, "alice");
    assert_eq!(client_with(&relay, expired).refused_allocation(), 401);

    let expiry = unix_seconds() + 5;
    let soon = Credentials::signed(SECRET, expiry, "alice");
    let mut client = client_with(&relay, soon.clone());
    let relayed = client.allocate();
    while unix_seconds() <= expiry {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.refresh(600), Ok(600));
    let peer = Peer::new();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    client.send_on(0x4000, b"still there");
    assert_eq!(peer.receive(), (b"still there".to_vec(), relayed));
    assert_eq!(client_with(&relay, soon).refused_allocation(), 401);
}

#[test]
fn an_allocation_takes_requests_from_the_user_who_made_it_alone() {
    let relay = Relay::start(&json!({}));
    let mut client = relay.udp_client();
    client.allocate();
    client.credentials = Credentials::of("mallory");
    let peer = Peer::new();
    assert_eq!(client.refresh(0), Err(441));
    assert_eq!(client.permit(peer.address().ip()), Some(441));
    assert_eq!(client.bind(0x4000, peer.address()), Some(441));
    assert_eq!(relay.metric("auth_failures_total", "other_user"), 3);
    assert_eq!(relay.allocations(), 1);
}

#[test]
fn a_user_has_so_many_allocations_whatever_the_expiry_of_the_username() {
    let relay = Relay::start(&json!({"quotas": {"allocations_per_user": 2}}));
    let hour = unix_seconds() + 3600;
    let alice = |later| {
        let credentials = Credentials::signed(SECRET, hour + later, "alice");
        client_with(&relay, credentials)
    };
    let mut first = alice(0);
    first.allocate();
    alice(1).allocate();
    assert_eq!(alice(2).refused_allocation(), 486);
    assert_eq!(relay.metric("quota_hits_total", "user_allocations"), 1);
    client_with(&relay, Credentials::of("bob")).allocate();
    assert_eq!(first.refresh(0), Ok(0));
    alice(3).allocate();
}

#[test]
fn all_users_together_have_so_many_allocations() {
    let relay = Relay::start(&json!({"quotas": {"allocations_total": 3}}));
    let mut clients: Vec<_> = (0..3).map(|_| relay.udp_client()).collect();
    for client in &mut clients {
        client.allocate();
    }
    assert_eq!(relay.udp_client().refused_allocation(), 508);
    assert_eq!(relay.metric("quota_hits_total", "total_allocations"), 1);
    assert_eq!(clients[0].refresh(0), Ok(0));
    relay.udp_client().allocate();
}

#[test]
fn ports_are_given_back_and_when_there_are_none_the_answer_is_508() {
    // nobody else on this machine has the address
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = std::net::Ipv4Addr::from([127, 55, high, low]);
    let relay = Relay::start(&json!({"relay": {
        "addresses": [address],
        "ports": "31000-31003",
    }}));
    let mut clients: Vec<_> = (0..4).map(|_| relay.udp_client()).collect();
    let mut relayed: Vec<_> = clients.iter_mut().map(Client::allocate).collect();
    relayed.sort_unstable();
    let all: Vec<_> = (31000..=31003).map(|port| (address, port).into()).collect();
    assert_eq!(relayed, all);
    assert_eq!(relay.udp_client().refused_allocation(), 508);
    assert!(relay.metric("quota_hits_total", "ports") >= 1);
    assert_eq!(clients.pop().unwrap().refresh(0), Ok(0));
    relay.udp_client().allocate();
}

/// A firewall or a container that lets few ports through: one is enough for a call at a time.
#[test]
fn a_single_port_serves_one_allocation_after_another_and_a_range_without_pairs_has_no_reservations()
{
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = std::net::Ipv4Addr::from([127, 56, high, low]);
    let with =
        |ports: &str| Relay::start(&json!({"relay": {"addresses": [address], "ports": ports}}));
    let asked = |relay: &Relay, next| {
        let mut client = relay.udp_client();
        let answer = client.ask(ALLOCATE, &[udp_transport(), even_port(next)]);
        (answer.code(), answer.xor(XOR_RELAYED_ADDRESS), client)
    };
    {
        let relay = with("31001");
        for _ in 0..3 {
            let mut client = relay.udp_client();
            assert_eq!(client.allocate(), (address, 31001).into());
            assert_eq!(relay.udp_client().refused_allocation(), 508);
            let peer = Peer::new();
            assert_eq!(client.bind(0x4000, peer.address()), None);
            client.send_on(0x4000, b"hello");
            assert_eq!(peer.receive(), (b"hello".to_vec(), (address, 31001).into()));
            assert_eq!(client.refresh(0), Ok(0));
        }
        assert_eq!(asked(&relay, false).0, Some(508));
        assert_eq!(relay.metric("quota_hits_total", "ports"), 4);
    }
    // one even port, with none above it
    let relay = with("31001-31002");
    assert_eq!(asked(&relay, true).0, Some(508));
    let (refused, relayed, _client) = asked(&relay, false);
    assert_eq!((refused, relayed), (None, Some((address, 31002).into())));
    assert_eq!(asked(&relay, false).0, Some(508));
    relay.udp_client().allocate();
    assert_eq!(relay.udp_client().refused_allocation(), 508);
}

#[test]
fn an_allocation_has_so_many_permissions_and_channels() {
    let relay = Relay::start(&json!({"quotas": {
        "permissions_per_allocation": 3,
        "channels_per_allocation": 2,
    }}));
    let mut client = relay.udp_client();
    client.allocate();
    for last in 1..=3 {
        assert_eq!(client.permit([127, 0, 0, last]), None);
    }
    assert_eq!(client.permit([127, 0, 0, 4]), Some(508));
    assert_eq!(client.permit([127, 0, 0, 3]), None, "there is one already");
    let port = |port| ([127, 0, 0, 1], port).into();
    assert_eq!(client.bind(0x4000, port(2000)), None);
    assert_eq!(client.bind(0x4001, port(2001)), None);
    assert_eq!(client.bind(0x4002, port(2002)), Some(508));
    assert_eq!(relay.metric("quota_hits_total", "permissions"), 1);
    assert_eq!(relay.metric("quota_hits_total", "channels"), 1);
    // all of them or none
    let mut other = relay.udp_client();
    other.allocate();
    let peers: Vec<_> = (1..=4)
        .map(|last| peer(([127, 0, 0, last], 1).into()))
        .collect();
    assert_eq!(other.ask(CREATE_PERMISSION, &peers).code(), Some(508));
    assert_eq!(other.ask(CREATE_PERMISSION, &peers[..3]).code(), None);
}

#[test]
fn a_user_has_so_much_bandwidth_and_others_have_theirs() {
    const PER_SECOND: u64 = 10_000;
    const SENT: u64 = 200;
    const LEN: usize = 1_000;

    let relay = Relay::start(&json!({"quotas": {"bandwidth_per_user": PER_SECOND}}));
    let mut greedy = relay.udp_client();
    greedy.allocate();
    let peer = Peer::new();
    assert_eq!(greedy.bind(0x4000, peer.address()), None);
    let start = now();
    for _ in 0..SENT {
        greedy.send_on(0x4000, &[7; LEN]);
    }
    // when the next is answered all of those were seen
    assert_eq!(greedy.refresh(600), Ok(600));
    let seconds = start.elapsed().as_secs_f64();
    let dropped = relay.dropped("bandwidth");
    let relayed = relay.metric("packets_total", "client_to_peer");
    assert_eq!(dropped + relayed, SENT);
    assert!(relayed >= 5, "{relayed}");
    // and the longest packet's length at once, whatever the bandwidth
    let most = 10.0 * seconds + 66.0;
    assert!(
        f64::from(u32::try_from(relayed).unwrap()) <= most,
        "{relayed} in {seconds} s"
    );

    let mut modest = relay.udp_client();
    modest.allocate();
    let other_peer = Peer::new();
    assert_eq!(modest.bind(0x4000, other_peer.address()), None);
    modest.send_on(0x4000, b"hello");
    assert_eq!(other_peer.receive().0, b"hello");
}

#[test]
fn a_lifetime_is_between_the_default_and_the_longest() {
    let relay = Relay::start(&json!({"lifetime": {"default": "50s", "max": "70s"}}));
    let mut client = relay.udp_client();
    let answer = client.ask(ALLOCATE, &[udp_transport(), lifetime(60)]);
    let granted = answer.value(crate::client::LIFETIME).unwrap();
    assert_eq!(granted, 60_u32.to_be_bytes());
    for (wanted, granted) in [(1, 50), (60, 60), (100_000, 70)] {
        assert_eq!(client.refresh(wanted), Ok(granted));
    }
    assert_eq!(
        client
            .ask(REFRESH, &[])
            .value(crate::client::LIFETIME)
            .unwrap(),
        50_u32.to_be_bytes()
    );
}

#[test]
fn an_allocation_that_nobody_refreshes_ends_with_its_port() {
    let relay = Relay::start(&json!({"lifetime": {"default": "1s", "max": "1s"}}));
    let mut client = relay.udp_client();
    let relayed = client.allocate();
    assert!(eventually(|| relay.allocations() == 0));
    assert_eq!(client.refresh(600), Err(437));
    // the port is free for anybody
    std::net::UdpSocket::bind(relayed).unwrap();
    assert_eq!(relay.metric("allocations_made_total", ""), 1);
}

#[test]
fn a_request_that_comes_twice_makes_one_allocation() {
    let relay = Relay::start(&json!({}));
    let mut client = relay.udp_client();
    // what the relay wants is known from then on
    assert_eq!(client.refresh(600), Err(437));
    let request = client.request(ALLOCATE, &[udp_transport()]);
    let one = client.exchange(&request).unwrap();
    let other = client.exchange(&request).unwrap();
    assert_eq!(one.0, other.0);
    assert_eq!(client.refused_allocation(), 437);
    assert_eq!(relay.metric("allocations_made_total", ""), 1);
}
