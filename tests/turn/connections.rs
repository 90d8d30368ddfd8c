//! Connections of people who mean no good, or are very slow.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::{
    client::{ALLOCATE, BINDING, Client, Peer, Relayed, request, udp_transport},
    relay::{Relay, Setup},
    time::{PATIENCE, eventually, now},
    wire::{self, Received, Wire},
};

fn connect_from(local: impl Into<IpAddr>, relay: SocketAddr) -> TcpStream {
    wire::connect_from(local.into(), relay)
}

/// That the relay closes the connection, and says nothing before.
fn assert_closed(mut stream: &TcpStream) {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => assert_eq!(said, b""),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it is open"),
    }
}

/// Whether the relay answers on the connection.
fn is_served(mut stream: &TcpStream) -> bool {
    let mut answer = [0; 32];
    stream.write_all(&request(BINDING, &[])).is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// Somebody who gets no different treatment for what others do.
fn assert_others_are_served(relay: &Relay) {
    let mut client = relay.udp_client();
    let relayed = client.allocate();
    let peer = Peer::new();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    client.send_on(0x4000, b"hello");
    assert_eq!(peer.receive(), (b"hello".to_vec(), relayed));
    assert_eq!(client.refresh(0), Ok(0));
    let stream = connect_from([127, 88, 88, 88], relay.tcp[0]);
    Client::new(wire::tcp_on(stream)).allocate();
}

#[test]
fn a_prefix_has_so_many_connections_that_have_not_authenticated() {
    let relay = Relay::start(&json!({"quotas": {"connections_per_prefix": 4}}));
    let at = relay.tcp[0];
    let mut strangers: Vec<_> = (1..=4)
        .map(|last| connect_from([127, 7, 7, last], at))
        .collect();
    assert!(strangers.iter().all(is_served));
    assert_closed(&connect_from([127, 7, 7, 5], at));
    assert!(eventually(|| relay
        .metric("quota_hits_total", "connections_of_prefix")
        == 1));
    assert!(is_served(&connect_from([127, 7, 8, 1], at)));

    // who has authenticated is no stranger any more
    let mut member = Client::new(wire::tcp_on(strangers.pop().unwrap()));
    member.allocate();
    strangers.push(connect_from([127, 7, 7, 6], at));
    assert!(is_served(strangers.last().unwrap()));
    assert_closed(&connect_from([127, 7, 7, 7], at));

    // and who leaves makes room
    drop(strangers.swap_remove(0));
    let has_room = || is_served(&connect_from([127, 7, 7, 8], at));
    assert!(eventually(has_room));
    assert_eq!(member.refresh(600), Ok(600));
    assert!(strangers.iter().all(is_served));
}

#[test]
fn who_does_not_authenticate_in_time_is_sent_away() {
    let relay = Setup::new(&json!({"timeouts": {"first_request": "2s"}}))
        .with_tls(&[])
        .start();
    let mut member = relay.tcp_client();
    member.allocate();
    let silent = wire::connect(relay.tcp[0]);
    let mut talkative = relay.tcp_client();
    let mut in_tls = relay.tls_client();
    // Binding requests are anybody's, and no reason to stay
    let start = now();
    let mut answered = 0;
    while talkative.exchange(&request(BINDING, &[])).is_some() {
        answered += 1;
        thread::sleep(Duration::from_millis(50));
        assert!(start.elapsed() < PATIENCE, "it is still there");
    }
    assert!(answered > 0);
    assert_closed(&silent);
    assert_eq!(in_tls.wire.receive(PATIENCE), Received::Closed);
    // nor are requests with the wrong password
    let mut mallory = relay.tcp_client();
    mallory.credentials.password = "guessed".to_owned();
    mallory.ask(ALLOCATE, &[udp_transport()]);
    assert_eq!(mallory.wire.receive(PATIENCE), Received::Closed);
    in_tls = relay.tls_client();
    in_tls.allocate();
    assert_eq!(member.refresh(600), Ok(600));
}

/// One byte at a time, as slowly as a server puts up with.
#[test]
fn a_request_that_never_ends_is_not_waited_for() {
    let relay = Relay::start(&json!({"timeouts": {"first_request": "2s"}}));
    let mut slow: Vec<_> = (0..20_u8)
        .map(|index| connect_from([127, 1, 1, 1 + index], relay.tcp[0]))
        .collect();
    // an Allocate request with an attribute of 65,000 bytes
    let mut endless = request(ALLOCATE, &[udp_transport()]);
    endless[2..4].copy_from_slice(&65_012_u16.to_be_bytes());
    endless.extend([0x7F, 0xFF, 0xFD, 0xE8]);
    endless.resize(65_032, 1);
    let start = now();
    for byte in endless.chunks(1) {
        slow.retain_mut(|stream| stream.write_all(byte).is_ok());
        if slow.is_empty() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{} are still there", slow.len());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(slow.is_empty());
    assert!(eventually(|| relay.metric("connections", "") == 0));
    assert_others_are_served(&relay);
}

#[test]
fn slow_tls_handshakes_end_and_keep_nobody_else_from_theirs() {
    let relay = Setup::new(&json!({
        "timeouts": {"tls_handshake": "2s", "first_request": "2s"},
        "quotas": {"connections_per_prefix": 1000},
    }))
    .with_tls(&[])
    .start();
    // a record that says that it has 512 bytes, and a part of them
    let begun = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[9; 100]].concat();
    let slow: Vec<_> = (0..200)
        .map(|number| {
            let mut stream = wire::connect(relay.tcp[0]);
            // some have sent nothing but the first byte
            let some = if number % 2 == 0 { 1 } else { begun.len() };
            stream.write_all(&begun[..some]).unwrap();
            stream
        })
        .collect();
    let mut client = relay.tls_client();
    client.allocate();
    for mut stream in slow {
        let mut said = Vec::new();
        // closed or reset; an alert (21) is no secret
        let _ = stream.read_to_end(&mut said);
        assert!(said.is_empty() || said[0] == 21, "{said:?}");
    }
    assert!(
        eventually(|| relay.metric("handshakes_total", "timed_out") == 200),
        "{}",
        relay.metrics()
    );
    assert_eq!(client.refresh(600), Ok(600));
    // and one that is no handshake at all ends at once
    let mut broken = wire::connect(relay.tcp[0]);
    broken.write_all(&[22, 3, 1, 0, 4, 99, 99, 99, 99]).unwrap();
    let mut alert = Vec::new();
    let _ = broken.read_to_end(&mut alert);
    assert!(eventually(
        || relay.metric("handshakes_total", "failed") == 1
    ));
}

#[test]
fn unfinished_messages_take_no_more_memory_than_their_length() {
    const CLIENTS: usize = 60;

    let relay = Relay::start(&json!({"quotas": {"allocations_per_user": 100}}));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| relay.tcp_client()).collect();
    for client in &mut clients {
        client.allocate();
    }
    let before = relay.resident();
    let begun = [vec![0x40, 0, 0xFF, 0xFF], vec![1; 65_000]].concat();
    for client in &mut clients {
        client.wire.send(&begun).unwrap();
    }
    assert_others_are_served(&relay);
    let after = relay.resident();
    let most = u64::try_from(CLIENTS).unwrap() * 160;
    assert!(after < before + most, "{before} KiB, then {after} KiB");
    // the channel is nobody's: what is whole goes nowhere, and the connection is as good as before
    for client in &mut clients {
        client.wire.send(&[1; 536]).unwrap();
        assert_eq!(client.refresh(600), Ok(600));
    }
    assert_eq!(relay.dropped("no_channel"), u64::try_from(CLIENTS).unwrap());
}

/// Who does not read loses what comes last, and nobody else loses anything.
#[test]
fn a_client_that_does_not_read_loses_the_newest_packets_and_costs_a_buffer() {
    const LEN: usize = 1000;
    /// Fewer than the system drops before the relay has a chance to read them.
    const AT_ONCE: u32 = 50;

    let relay = Setup::new(&json!({"quotas": {"tcp_buffer": "128KiB"}}))
        .with_tls(&[])
        .start();
    for is_encrypted in [false, true] {
        let stream = connect_with_small_window(relay.tcp[0]);
        let mut slow = Client::new(if is_encrypted {
            wire::try_tls(stream, &relay.tls_config(&[])).unwrap()
        } else {
            wire::tcp_on(stream)
        });
        let relayed = slow.allocate();
        let peer = Peer::new();
        assert_eq!(slow.bind(0x4000, peer.address()), None);
        let mut other = relay.tcp_client();
        let at_other = other.allocate();
        let other_peer = Peer::new();
        assert_eq!(other.bind(0x4000, other_peer.address()), None);

        let before = relay.dropped("queue_full");
        let mut numbers = 0_u32..;
        let mut flood_until_lost = |count: u64| {
            let deadline = now() + PATIENCE;
            while relay.dropped("queue_full") < before + count {
                assert!(now() < deadline, "{}", relay.metrics());
                for number in numbers.by_ref().take(AT_ONCE as usize) {
                    let mut payload = number.to_be_bytes().to_vec();
                    payload.resize(LEN, 0);
                    peer.send(relayed, &payload);
                }
                // whoever else there is gets everything
                other_peer.send(at_other, b"hello");
                assert_eq!(other.relayed(), Relayed::On(0x4000, b"hello".to_vec()));
            }
            relay.resident()
        };
        let small = flood_until_lost(500);
        let large = flood_until_lost(20_000);
        assert!(large < small + 1024, "{small} KiB, then {large} KiB");

        // the oldest are there, one after the other, none in part
        let mut next = 0;
        while let Some(relayed) = slow.relayed_within(Duration::from_secs(1)) {
            let payload = relayed.payload();
            assert_eq!(payload.len(), LEN);
            assert_eq!(payload[..4], u32::to_be_bytes(next));
            next += 1;
        }
        assert!(next >= 128, "{next}");
        // and the connection is as good as before
        peer.send(relayed, b"are you back");
        assert_eq!(slow.relayed().payload(), b"are you back");
        assert_eq!(slow.refresh(600), Ok(600));
    }
}

/// A connection for which the system keeps few bytes that are not read.
fn connect_with_small_window(relay: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(8192).unwrap();
    socket.connect_timeout(&relay.into(), PATIENCE).unwrap();
    socket.into()
}

#[test]
fn answers_that_are_not_read_pile_up_nowhere() {
    let relay = Setup::new(&json!({"quotas": {"tcp_buffer": "128KiB"}}))
        .with_tls(&[])
        .start();
    let mut client = relay.tcp_client();
    client.allocate();
    let before = relay.resident();
    let Wire::Tcp(framed) = &mut client.wire else {
        unreachable!("it is TCP");
    };
    let questions = request(BINDING, &[]).repeat(1000);
    framed
        .stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    // until the relay takes no more, or has had enough of it
    let mut sent = 0;
    while sent < 200_000_000 {
        match framed.stream.write(&questions) {
            Ok(len) => sent += len,
            Err(_) => break,
        }
    }
    let after = relay.resident();
    assert!(
        after < before + 4096,
        "{before} KiB, then {after} KiB after {sent} bytes"
    );
    assert_others_are_served(&relay);
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let relay = Setup::new(&json!({"quotas": {"connections_per_prefix": 10_000}}))
        .with_tls(&[])
        .start();
    let round = |count: usize| {
        for number in 0..count {
            let mut stream = connect_from([127, 3, 3, 3], relay.tcp[0]);
            match number % 4 {
                0 => {}
                1 => stream
                    .write_all(&request(ALLOCATE, &[udp_transport()])[..25])
                    .unwrap(),
                2 => assert!(is_served(&stream)),
                _ => stream.write_all(&[22, 3, 1, 2, 0, 1]).unwrap(),
            }
        }
        assert!(eventually(|| relay.metric("connections", "") == 0));
        (relay.resident(), relay.open_files())
    };
    let (before, files_before) = round(1000);
    let (after, files_after) = round(4000);
    assert!(after < before + 1024, "{before} KiB, then {after} KiB");
    assert!(
        files_after <= files_before + 1,
        "{files_before}, then {files_after}"
    );
}

#[test]
fn without_file_descriptors_it_neither_spins_nor_ends() {
    let relay = Setup::new(&json!({
        "quotas": {"connections_per_prefix": 10_000, "allocations_per_user": 1000},
        "timeouts": {"first_request": "5m"},
    }))
    .after("ulimit -n 80")
    .start();
    let mut member = relay.udp_client();
    member.allocate();
    let connections: Vec<_> = (0..200).map(|_| wire::connect(relay.tcp[0])).collect();
    // it has as many as it can have
    assert!(
        eventually(|| relay.open_files() >= 79),
        "{}",
        relay.open_files()
    );
    let (cpu, lines) = (relay.cpu_time(), relay.log().lines().count());
    thread::sleep(Duration::from_secs(2));
    let spent = relay.cpu_time().saturating_sub(cpu);
    assert!(spent < Duration::from_secs(1), "{spent:?} in two seconds");
    assert!(relay.log().lines().count() < lines + 20, "{}", relay.log());

    // those who are there are served; others are told, over UDP, that there is no room
    assert_eq!(member.refresh(600), Ok(600));
    let code = relay.udp_client().refused_allocation();
    assert!([500, 508].contains(&code), "{code}");
    assert!(is_served(&connections[0]));
    // and when there is room again, it is used without being asked
    drop(connections);
    let has_room = || {
        let stream = wire::connect(relay.tcp[0]);
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        is_served(&stream)
    };
    assert!(eventually(has_room));
    relay.udp_client().allocate();
}

/// Without a single packet, connection or timer there is nothing to do.
#[test]
fn an_idle_relay_sleeps() {
    let relay = Setup::new(&json!({})).with_tls(&[]).start();
    let mut clients = [relay.udp_client(), relay.tcp_client(), relay.tls_client()];
    for client in &mut clients {
        client.allocate();
    }
    let before = relay.cpu_time();
    thread::sleep(Duration::from_secs(3));
    let spent = relay.cpu_time().saturating_sub(before);
    assert!(
        spent < Duration::from_millis(300),
        "{spent:?} in three seconds"
    );
}

/// UDP flood from one user at full speed does not keep streams from being served.
#[test]
fn a_flood_of_datagrams_does_not_starve_connections() {
    let relay = Relay::start(&json!({"workers": 1}));
    let mut client = relay.tcp_client();
    client.allocate();
    let at = relay.udp[0];
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let socket = UdpSocket::bind("127.66.0.1:0").unwrap();
            let request = request(BINDING, &[]);
            let end = now() + Duration::from_secs(3);
            while now() < end {
                let _ = socket.send_to(&request, at);
            }
        });
        let mut answered = 0;
        while !flood.is_finished() {
            assert_eq!(client.refresh(600), Ok(600));
            answered += 1;
        }
        assert!(answered > 10, "{answered}");
    });
}
