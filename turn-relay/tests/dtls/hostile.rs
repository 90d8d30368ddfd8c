//! What nobody should send, and what it costs the relay: nothing that lasts, and no answer that is longer than the question.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use shared::{clock::Clock, random::Random};
use turn_relay::io::dtls::hello::FIRST_HELLO;
use turn_relay_proto::counters::{DropReason, Handshake};

use crate::{
    Relay,
    client::{PATIENCE, Wire},
    relay,
    session::{DtlsWire, dtls_client},
    traffic::{peer, relays_both_ways},
    wait_until,
};

/// How long an answer is waited for that must not come.
const SILENCE: Duration = Duration::from_millis(300);

fn random(bytes: &mut [u8]) {
    Random::system().fill(bytes);
}

/// A client at another address, as whoever forges addresses has them.
fn from(address: Ipv4Addr, relay: &Relay) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).expect("all of 127.0.0.0/8 is this host");
    socket.connect(relay.dtls()).expect("loopback");
    socket.set_nonblocking(true).expect("possible");
    socket
}

#[test]
fn a_flood_of_hellos_from_forged_addresses_leaves_nothing_behind() {
    let mut reloadable = relay::reloadable();
    let mut core = relay::core();
    core.quotas.unauthenticated_per_prefix = 10;
    reloadable.core = std::sync::Arc::new(core);
    let relay = Relay::with(relay::settings(), reloadable, Clock::system());
    let sockets: Vec<_> = (0..200)
        .map(|n| from(Ipv4Addr::new(127, 1, n / 20, 1 + n % 20), &relay))
        .collect();
    let flood = |rounds: u8| {
        let mut answers = 0;
        for _ in 0..rounds {
            for socket in &sockets {
                let mut hello = FIRST_HELLO;
                random(&mut hello[27..59]);
                let _ = socket.send(&hello);
                // and one with a cookie that nobody gave out
                let mut second = hello.to_vec();
                second[12] += 32;
                second[16] += 32;
                second[18] = 1;
                second[24] += 32;
                second[60] = 32;
                let mut cookie = [0; 32];
                random(&mut cookie);
                second.splice(61..61, cookie);
                let _ = socket.send(&second);
                let mut buffer = [0; 2_000];
                while let Ok(len) = socket.recv(&mut buffer) {
                    assert!(len <= hello.len(), "{len}");
                    answers += 1;
                }
            }
        }
        answers
    };
    let answers = flood(50);
    assert_eq!(relay.sessions(), 0);
    assert_eq!(relay.handshakes(Handshake::Failed), 0);
    // of ten prefixes each had its ten a second, and ten at once
    assert!(relay.drops(DropReason::UnauthenticatedBudget) > 0);
    assert!(relay.drops(DropReason::Malformed) > 0);
    assert!(answers < 10_000, "{answers}");
    // whoever is somewhere else is served all the same
    relays_both_ways(&mut dtls_client(relay.dtls()), &[100]);
}

#[test]
fn a_cookie_is_of_no_use_to_anybody_else() {
    let relay = Relay::start();
    let wire = DtlsWire::open(relay.dtls());
    let with_cookie = &wire.sent[1];
    let thief = from(Ipv4Addr::new(127, 0, 0, 2), &relay);
    thief.send(with_cookie).expect("the relay is there");
    wait_until("a drop", || relay.drops(DropReason::Malformed) == 1);
    assert_eq!(relay.sessions(), 1);
    let mut buffer = [0; 2_000];
    std::thread::sleep(SILENCE);
    assert!(thief.recv(&mut buffer).is_err(), "it is not answered");
}

#[test]
fn what_is_no_hello_is_not_answered() {
    let relay = Relay::start();
    let stranger = from(Ipv4Addr::LOCALHOST, &relay);
    let mut alert = vec![21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40];
    // a Binding request, in clear
    let mut binding = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    binding.extend_from_slice(&[1; 12]);
    for datagram in [&binding, &alert.clone(), &vec![], &vec![22; 5]] {
        stranger.send(datagram).expect("the relay is there");
    }
    alert[3..5].copy_from_slice(&[0, 1]);
    stranger.send(&alert).expect("the relay is there");
    wait_until("five drops", || relay.drops(DropReason::Malformed) == 5);
    let mut buffer = [0; 2_000];
    assert!(stranger.recv(&mut buffer).is_err(), "it is not answered");
}

#[test]
fn a_client_of_an_older_version_is_told_so() {
    let relay = Relay::start();
    let stranger = from(Ipv4Addr::LOCALHOST, &relay);
    let mut hello = FIRST_HELLO;
    hello[26] = 0xff;
    stranger.send(&hello).expect("the relay is there");
    stranger.set_nonblocking(false).expect("possible");
    stranger.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let mut buffer = [0; 2_000];
    let len = stranger.recv(&mut buffer).expect("an answer");
    // a fatal alert, protocol_version
    assert_eq!((buffer[0], &buffer[13..len]), (21, [2, 70].as_slice()));
    assert_eq!(relay.sessions(), 0);
}

#[test]
fn garbage_and_replays_change_nothing_in_a_session() {
    let relay = Relay::start();
    let mut client = dtls_client(relay.dtls());
    let relayed = client.allocate();
    let peer = peer();
    let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
    client.wire.send(&channel.message(b"once"));
    let sent = client.wire.sent.clone();
    let socket = client.wire.socket.try_clone().expect("open files are left");
    // everything again, the handshake among it
    for datagram in sent.iter().chain(&sent) {
        socket.send(datagram).expect("the relay is there");
    }
    // everything with a bit that is another, cut off, and made longer
    for datagram in &sent {
        for _ in 0..200 {
            let mut changed = datagram.clone();
            let mut draw = [0; 3];
            random(&mut draw);
            let at = usize::from(u16::from_be_bytes([draw[0], draw[1]])) % changed.len();
            changed[at] ^= 1 << (draw[2] % 8);
            socket.send(&changed).expect("the relay is there");
            changed.truncate(at);
            socket.send(&changed).expect("the relay is there");
            let mut longer = datagram.clone();
            longer.extend_from_slice(&changed);
            socket.send(&longer).expect("the relay is there");
        }
        // so that neither queue overflows
        client.wire.catch_up();
    }
    // records in clear that pretend to be data, an end, an alert, a handshake, an unknown type
    for kind in 20..=30 {
        for epoch in [0, 1, 2] {
            let record = [kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 9, kind, 0, 2, 2, 0];
            for _ in 0..40 {
                socket.send(&record).expect("the relay is there");
            }
        }
        client.wire.catch_up();
    }
    client.wire.send(&channel.message(b"twice"));
    let mut buffer = [0; 100];
    for expected in [b"once".as_slice(), b"twice"] {
        let (len, _) = peer.recv_from(&mut buffer).expect("relayed");
        assert_eq!(&buffer[..len], expected);
    }
    peer.send_to(b"back", relayed).expect("sent");
    // the relay may have said parts of the handshake again in between
    assert_eq!(client.channel_data(), Some(b"back".to_vec()));
    assert_eq!(relay.workers.allocations(), 1);
    assert_eq!(relay.handshakes(Handshake::Completed), 1);
    peer.set_read_timeout(Some(SILENCE)).expect("not zero");
    assert!(peer.recv_from(&mut buffer).is_err(), "nothing came twice");
}

/// Handshakes with a bit that is another fail, each by itself.
#[test]
fn damaged_handshakes_harm_nobody() {
    let relay = Relay::start();
    let mut draw = [0; 4];
    for _ in 0..60 {
        let mut wire = DtlsWire::new(relay.dtls(), 1_200);
        wire.tick();
        for _ in 0..4 {
            let Some(datagram) = wire.datagram() else {
                break;
            };
            // it may have been told that it is not understood
            if wire.try_to_take(&datagram).is_err() {
                break;
            }
            // what it said last goes out again, damaged
            if let Some(last) = wire.sent.last() {
                for _ in 0..30 {
                    let mut damaged = last.clone();
                    random(&mut draw);
                    let at = usize::from(u16::from_be_bytes([draw[0], draw[1]])) % damaged.len();
                    damaged[at] = draw[2];
                    wire.socket.send(&damaged).expect("the relay is there");
                }
            }
        }
    }
    relays_both_ways(&mut dtls_client(relay.dtls()), &[100]);
    assert!(relay.workers.are_alive());
}
