//! Connections over TCP and TLS.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use stand_ins::Authority;
use turn_relay::workers::{Connections, Settings, Workers};
use turn_relay_proto::{
    counters::{Counters, DropReason, Handshake, QuotaHit},
    stun::{AttributeType, Class, Method},
};

use crate::{
    client::{Client, PATIENCE, Wire, udp_client},
    relay::{reloadable, settings, start},
    stream::{Framed, connect, tcp_client, tls, tls_client},
};

pub(crate) fn tcp_settings() -> Settings {
    let mut settings = settings();
    settings.tcp = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    settings
}

/// With a certificate, and whom a client has to trust.
pub(crate) fn tls_settings() -> (Settings, Arc<ClientConfig>) {
    let authority = Authority::new().expect("keys can be made");
    let server = authority
        .server_config(&["localhost"], &[])
        .expect("a certificate can be made");
    let client = authority.client_config(&[]).expect("possible");
    let mut settings = tcp_settings();
    settings.tls = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    settings.tls_config = Some(Arc::new(ArcSwap::new(server)));
    (settings, client)
}

pub(crate) fn tcp_address(relay: &Workers) -> SocketAddr {
    relay.local_addresses()[1]
}

pub(crate) fn tls_address(relay: &Workers) -> SocketAddr {
    relay.local_addresses()[2]
}

fn peer() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    socket
}

/// Waits until something becomes true that nobody tells of.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = shared::clock::Clock::system().now() + PATIENCE;
    while !is_so() {
        assert!(now() < deadline, "{what}: did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn now() -> Instant {
    shared::clock::Clock::system().now()
}

fn count(relay: &Workers, of_thread: impl Fn(&Counters) -> u64) -> u64 {
    relay
        .counters()
        .iter()
        .map(|counters| of_thread(counters))
        .sum()
}

fn handshakes(relay: &Workers, label: Handshake) -> u64 {
    count(relay, |counters| counters.handshakes.get(label))
}

fn drops(relay: &Workers, label: DropReason) -> u64 {
    count(relay, |counters| counters.drops.get(label))
}

fn quota_hits(relay: &Workers, label: QuotaHit) -> u64 {
    count(relay, |counters| counters.quota_hits.get(label))
}

/// Whether the relay closes the connection, perhaps after an alert.
pub(crate) fn is_closed(stream: &mut impl Read) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(len) => len < 10,
        // not if nothing has come for as long as anybody waits
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn relays_both_ways<W: Wire>(client: &mut Client<W>) {
    let relayed = client.allocate();
    let peer = peer();
    let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
    let mut buffer = vec![0; 65_536];
    let payloads: Vec<Vec<u8>> = [1_usize, 2, 3, 4, 0, 1_000, 9_000, 65_000, 7]
        .iter()
        .map(|len| vec![len.to_le_bytes()[0]; *len])
        .collect();
    for payload in &payloads {
        client.wire.send(&channel.message(payload));
        let (len, from) = peer.recv_from(&mut buffer).expect("relayed");
        assert_eq!(from, relayed);
        assert!(buffer[..len] == *payload, "{len}");
        peer.send_to(payload, relayed).expect("sent");
        assert!(client.channel_data().as_ref() == Some(payload), "{len}");
    }
    // several at once: many come by one read, and some by two
    let small: Vec<Vec<u8>> = payloads
        .into_iter()
        .filter(|payload| payload.len() < 2_000)
        .collect();
    let long: Vec<Vec<u8>> = (0..14).map(|number| vec![number; 5_003]).collect();
    for payloads in [&small, &long].into_iter().cycle().take(10) {
        let all: Vec<u8> = payloads
            .iter()
            .flat_map(|payload| channel.message(payload))
            .collect();
        client.wire.send(&all);
        for payload in payloads {
            let (len, _) = peer.recv_from(&mut buffer).expect("relayed");
            assert!(buffer[..len] == *payload, "{len}");
        }
        for payload in payloads {
            peer.send_to(payload, relayed).expect("sent");
        }
        for payload in payloads {
            assert!(client.channel_data().as_ref() == Some(payload));
        }
    }
}

#[test]
fn data_goes_both_ways_over_tcp() {
    let relay = start(tcp_settings(), reloadable());
    relays_both_ways(&mut tcp_client(tcp_address(&relay)));
}

#[test]
fn data_goes_both_ways_over_tls() {
    let (settings, trust) = tls_settings();
    let relay = start(settings, reloadable());
    relays_both_ways(&mut tls_client(tls_address(&relay), &trust));
    assert_eq!(handshakes(&relay, Handshake::Completed), 1);
}

#[test]
fn tls_and_plain_share_every_port() {
    let (settings, trust) = tls_settings();
    let relay = start(settings, reloadable());
    for address in [tcp_address(&relay), tls_address(&relay)] {
        let mut plain = tcp_client(address);
        let mut encrypted = tls_client(address, &trust);
        assert_eq!(
            plain.ask(Method::Binding, &|_| {}).message().class(),
            Class::Success
        );
        assert_eq!(
            encrypted.ask(Method::Binding, &|_| {}).message().class(),
            Class::Success
        );
        wait_until("both are counted", || {
            let open = relay.connections();
            (open.tcp, open.tls) == (1, 1)
        });
        drop((plain, encrypted));
        wait_until("both are gone", || {
            relay.connections() == Connections::default()
        });
    }
}

#[test]
fn a_new_certificate_is_for_new_connections() {
    let (settings, trust) = tls_settings();
    let (other, other_trust) = tls_settings();
    let current = settings.tls_config.clone().expect("with TLS");
    let relay = start(settings, reloadable());
    let mut old = tls_client(tls_address(&relay), &trust);
    old.allocate();
    current.store(other.tls_config.expect("with TLS").load_full());
    let mut new = tls_client(tls_address(&relay), &other_trust);
    new.allocate();
    assert_eq!(
        old.ask(Method::Refresh, &|_| {}).message().class(),
        Class::Success
    );
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let (settings, trust) = tls_settings();
    let relay = start(settings, reloadable());
    let mut plain = tcp_client(tcp_address(&relay));
    let request = plain.request(Method::Binding, &|_| {});
    for byte in &request {
        plain.wire.send(&[*byte]);
    }
    assert_eq!(plain.answer().message().class(), Class::Success);
    let mut encrypted = tls_client(tcp_address(&relay), &trust);
    for byte in &request {
        encrypted.wire.send(&[*byte]);
    }
    assert_eq!(encrypted.answer().message().class(), Class::Success);
}

#[test]
fn an_answer_reaches_a_client_that_has_said_everything() {
    let relay = start(tcp_settings(), reloadable());
    let mut client = tcp_client(tcp_address(&relay));
    let request = client.request(Method::Binding, &|_| {});
    client.wire.send(&request);
    client
        .wire
        .stream
        .shutdown(Shutdown::Write)
        .expect("connected");
    assert_eq!(client.answer().message().class(), Class::Success);
    assert!(is_closed(&mut client.wire.stream));
}

#[test]
fn an_allocation_ends_with_its_connection() {
    let relay = start(tcp_settings(), reloadable());
    let mut client = tcp_client(tcp_address(&relay));
    client.allocate();
    assert_eq!(relay.allocations(), 1);
    drop(client);
    wait_until("the allocation ends", || relay.allocations() == 0);
}

#[test]
fn what_is_no_message_ends_the_connection() {
    let relay = start(tcp_settings(), reloadable());
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        // a length that is no multiple of four
        &[0, 1, 0, 3],
        &[0xFF],
        // a stranger has nothing to say that is that long
        &[0, 1, 0x40, 0, 0x21, 0x12, 0xA4, 0x42],
    ] {
        let mut stream = connect(tcp_address(&relay));
        stream.write_all(garbage).expect("connected");
        assert!(is_closed(&mut stream), "{garbage:?}");
    }
    wait_until("all are gone", || relay.connections().tcp == 0);
}

#[test]
fn tls_without_a_certificate_is_refused() {
    let relay = start(tcp_settings(), reloadable());
    let mut stream = connect(tcp_address(&relay));
    stream.write_all(&[0x16, 3, 1, 0, 100]).expect("connected");
    assert!(is_closed(&mut stream));
    assert_eq!(handshakes(&relay, Handshake::Failed), 1);
}

#[test]
fn a_handshake_that_fails_is_counted() {
    let (settings, _) = tls_settings();
    let relay = start(settings, reloadable());
    let mut stream = connect(tls_address(&relay));
    stream
        .write_all(&[0x16, 3, 1, 0, 4, 1, 2, 3, 4])
        .expect("connected");
    assert!(is_closed(&mut stream));
    wait_until("it is counted", || {
        handshakes(&relay, Handshake::Failed) == 1
    });
    // nobody trusts the authority of another test
    let (_, stranger) = tls_settings();
    let mut other = tls(connect(tls_address(&relay)), &stranger);
    assert!(
        other
            .write_all(b"hello")
            .and_then(|()| other.flush())
            .is_err()
    );
    drop(other);
    wait_until("it is counted", || {
        handshakes(&relay, Handshake::Failed) == 2
    });
    assert_eq!(handshakes(&relay, Handshake::Completed), 0);
}

#[test]
fn who_does_not_finish_a_handshake_is_closed() {
    let (settings, _) = tls_settings();
    let mut reloadable = reloadable();
    reloadable.tls_handshake = Duration::from_millis(100);
    let relay = start(settings, reloadable);
    let mut stream = connect(tls_address(&relay));
    stream.write_all(&[0x16, 3, 1, 0, 100]).expect("connected");
    assert!(is_closed(&mut stream));
    assert_eq!(handshakes(&relay, Handshake::TimedOut), 1);
    assert_eq!(handshakes(&relay, Handshake::Failed), 0);
}

#[test]
fn who_makes_no_authentic_request_is_closed_and_who_does_is_not() {
    let mut reloadable = reloadable();
    reloadable.first_request = Duration::from_millis(300);
    let relay = start(tcp_settings(), reloadable);
    let mut known = tcp_client(tcp_address(&relay));
    known.allocate();
    let mut silent = connect(tcp_address(&relay));
    let mut stranger = tcp_client(tcp_address(&relay));
    stranger.ask(Method::Binding, &|_| {});
    assert!(is_closed(&mut silent));
    assert!(is_closed(&mut stranger.wire.stream));
    assert_eq!(
        known.ask(Method::Refresh, &|_| {}).message().class(),
        Class::Success
    );
}

#[test]
fn a_connection_without_an_allocation_is_closed_after_a_while() {
    let mut reloadable = reloadable();
    reloadable.idle = Duration::from_millis(100);
    let relay = start(tcp_settings(), reloadable);
    let mut client = tcp_client(tcp_address(&relay));
    client.allocate();
    let answer = client.ask(Method::Refresh, &|writer| {
        writer.number(AttributeType::LIFETIME, 0);
    });
    assert_eq!(answer.message().class(), Class::Success);
    assert!(is_closed(&mut client.wire.stream));
}

#[test]
fn one_prefix_has_so_many_strangers_and_no_more() {
    let mut reloadable = reloadable();
    reloadable.connections_per_prefix = 2;
    let relay = start(tcp_settings(), reloadable);
    let mut one = tcp_client(tcp_address(&relay));
    let mut other = tcp_client(tcp_address(&relay));
    one.ask(Method::Binding, &|_| {});
    other.ask(Method::Binding, &|_| {});
    assert!(is_closed(&mut connect(tcp_address(&relay))));
    assert_eq!(quota_hits(&relay, QuotaHit::ConnectionsOfPrefix), 1);
    // who shows credentials makes space
    one.allocate();
    let mut third = tcp_client(tcp_address(&relay));
    assert_eq!(
        third.ask(Method::Binding, &|_| {}).message().class(),
        Class::Success
    );
}

/// The client's own buffers, the system's, and the relay's bounded one.
#[test]
fn a_slow_reader_loses_what_is_new_and_gets_the_rest_whole() {
    let mut reloadable = reloadable();
    reloadable.tcp_buffer = 128 * 1024;
    let relay = start(tcp_settings(), reloadable);
    let mut client = tcp_client(tcp_address(&relay));
    let relayed = client.allocate();
    let peer = peer();
    client.bind(0x4000, peer.local_addr().expect("bound"));
    let mut sent = 0_u32;
    while drops(&relay, DropReason::QueueFull) == 0 {
        for _ in 0..20 {
            let mut payload = vec![0; 1_001];
            payload[..4].copy_from_slice(&sent.to_be_bytes());
            peer.send_to(&payload, relayed).expect("sent");
            sent += 1;
        }
        assert!(sent < 100_000, "something is not bounded");
        std::thread::sleep(Duration::from_millis(1));
    }
    // what comes is whole and in order, and there is an end of it
    let mut last = None;
    let answer = client.request(Method::Refresh, &|_| {});
    let mut received = 0;
    client
        .wire
        .stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("not zero");
    while let Some(data) = client.channel_data() {
        assert_eq!(data.len(), 1_001);
        let number = u32::from_be_bytes([data[0], data[1], data[2], data[3]]);
        assert!(last < Some(number), "{last:?} {number}");
        last = Some(number);
        received += 1;
    }
    assert!(received < sent);
    // the connection is as good as before
    client
        .wire
        .stream
        .set_read_timeout(Some(PATIENCE))
        .expect("not zero");
    client.wire.send(&answer);
    assert_eq!(client.answer().message().class(), Class::Success);
}

#[test]
fn who_does_not_read_answers_is_closed() {
    let (settings, trust) = tls_settings();
    let relay = start(settings, reloadable());
    let mut plain = tcp_client(tcp_address(&relay));
    let request = plain.request(Method::Binding, &|_| {});
    let floods = |mut stream: Box<dyn Write>| {
        let many = request.repeat(1_000);
        (0..100_000).any(|_| stream.write_all(&many).is_err())
    };
    assert!(floods(Box::new(connect(tcp_address(&relay)))));
    assert!(floods(Box::new(tls(connect(tls_address(&relay)), &trust))));
    // others are served meanwhile
    assert_eq!(
        plain.ask(Method::Binding, &|_| {}).message().class(),
        Class::Success
    );
}

/// Two clients of one relay, on whichever of its threads, one over TLS.
#[test]
fn a_client_on_a_stream_is_reached_from_every_thread() {
    let (mut settings, trust) = tls_settings();
    settings.workers = 4;
    let relay = start(settings, reloadable());
    let mut streaming = tls_client(tls_address(&relay), &trust);
    let relayed_streaming = streaming.allocate();
    for _ in 0..8 {
        let mut sender = udp_client(relay.local_addresses()[0]);
        let relayed = sender.allocate();
        streaming.permit(relayed);
        let channel = sender.bind(0x4000, relayed_streaming);
        for payload in [b"one".as_slice(), b"two", &[3; 1_200]] {
            sender.wire.send(&channel.message(payload)).expect("sent");
            let data = streaming.indication(Method::Data);
            assert_eq!(data.message().value(AttributeType::DATA), Some(payload));
        }
    }
}

mod behind_a_proxy {
    use super::*;

    fn header(client: [u8; 4]) -> Vec<u8> {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C".to_vec();
        header.extend(client);
        header.extend([127, 0, 0, 1, 0x30, 0x39, 0, 1]);
        header
    }

    fn behind_proxy() -> (Workers, Arc<ClientConfig>) {
        let (settings, trust) = tls_settings();
        let mut reloadable = reloadable();
        reloadable.proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        (start(settings, reloadable), trust)
    }

    fn mapped<W: Wire>(client: &mut Client<W>) -> Option<SocketAddr> {
        let answer = client.ask(Method::Binding, &|_| {});
        answer
            .message()
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS)
    }

    #[test]
    fn the_client_is_who_the_header_says() {
        let (relay, trust) = behind_proxy();
        let expected = Some(SocketAddr::from(([192, 0, 2, 7], 12_345)));
        for address in [tcp_address(&relay), tls_address(&relay)] {
            let mut stream = connect(address);
            stream
                .write_all(&header([192, 0, 2, 7]))
                .expect("connected");
            assert_eq!(mapped(&mut Client::new(Framed::new(stream))), expected);
            let mut stream = connect(address);
            // the header and the beginning of the handshake may come by one read
            stream
                .write_all(&header([192, 0, 2, 7]))
                .expect("connected");
            assert_eq!(
                mapped(&mut Client::new(Framed::new(tls(stream, &trust)))),
                expected
            );
        }
    }

    #[test]
    fn header_and_request_may_come_together_or_in_pieces() {
        let (relay, _) = behind_proxy();
        let mut all = header([192, 0, 2, 7]);
        let mut client = tcp_client(tcp_address(&relay));
        all.extend(client.request(Method::Binding, &|_| {}));
        client.wire.send(&all);
        assert_eq!(client.answer().message().class(), Class::Success);
        let mut client = tcp_client(tcp_address(&relay));
        for byte in all {
            client.wire.send(&[byte]);
        }
        assert_eq!(client.answer().message().class(), Class::Success);
    }

    #[test]
    fn a_proxys_connection_without_a_header_is_closed() {
        let (relay, trust) = behind_proxy();
        let mut client = tcp_client(tcp_address(&relay));
        let request = client.request(Method::Binding, &|_| {});
        client.wire.send(&request);
        assert!(is_closed(&mut client.wire.stream));
        let mut stream = tls(connect(tls_address(&relay)), &trust);
        assert!(
            stream
                .write_all(b"hello")
                .and_then(|()| stream.flush())
                .is_err()
        );
    }

    #[test]
    fn nobody_else_may_send_a_header() {
        let relay = start(tcp_settings(), reloadable());
        let mut stream: TcpStream = connect(tcp_address(&relay));
        stream
            .write_all(&header([192, 0, 2, 7]))
            .expect("connected");
        assert!(is_closed(&mut stream));
    }

    #[test]
    fn strangers_are_counted_by_who_they_are() {
        let (settings, _) = tls_settings();
        let mut reloadable = reloadable();
        reloadable.proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        reloadable.connections_per_prefix = 1;
        let relay = start(settings, reloadable);
        let client = |ip| {
            let mut stream = connect(tcp_address(&relay));
            stream.write_all(&header(ip)).expect("connected");
            Client::new(Framed::new(stream))
        };
        let mut one = client([192, 0, 2, 7]);
        assert!(mapped(&mut one).is_some());
        assert!(is_closed(&mut client([192, 0, 2, 99]).wire.stream));
        assert!(mapped(&mut client([192, 0, 3, 7])).is_some());
    }
}

#[test]
fn whoever_proves_nothing_gets_sixteen_answers_on_a_connection() {
    // so little that it is read at once
    const SENT: usize = 20;
    let (settings, trust) = tls_settings();
    let relay = start(settings, reloadable());
    let ask = |client: &mut Client<Framed<TcpStream>>| {
        let request = client.request(Method::Binding, &|_| {});
        client.wire.send(&request.repeat(SENT));
        (0..SENT)
            .take_while(|_| client.wire.receive().is_some())
            .count()
    };
    let mut stranger = tcp_client(tcp_address(&relay));
    assert_eq!(ask(&mut stranger), 16);
    assert!(is_closed(&mut stranger.wire.stream));
    assert_eq!(quota_hits(&relay, QuotaHit::UnprovenRequests), 1);
    // an allocation is the proof, until it ends
    let mut client = tcp_client(tcp_address(&relay));
    client.allocate();
    assert_eq!(ask(&mut client), SENT);
    let answer = client.ask(Method::Refresh, &|writer| {
        writer.number(AttributeType::LIFETIME, 0);
    });
    assert_eq!(answer.message().class(), Class::Success);
    assert_eq!(ask(&mut client), 16);
    assert_eq!(quota_hits(&relay, QuotaHit::UnprovenRequests), 2);
    // as well over TLS
    let mut stranger = tls_client(tls_address(&relay), &trust);
    let request = stranger.request(Method::Binding, &|_| {});
    stranger.wire.send(&request.repeat(SENT));
    let answers = (0..SENT).take_while(|_| stranger.wire.receive().is_some());
    assert_eq!(answers.count(), 16);
}

#[test]
fn a_prefix_has_so_many_tls_handshakes_in_a_second() {
    let (settings, trust) = tls_settings();
    let mut reloadable = reloadable();
    reloadable.connections_per_prefix = 5;
    // time stands still
    let clock = shared::clock::Clock::manual(std::time::SystemTime::UNIX_EPOCH);
    let random = shared::random::Random::system();
    let relay = Workers::start(settings, reloadable, clock.clone(), random)
        .expect("loopback has free ports");
    let shakes_hands = || {
        let mut stream = tls(connect(tls_address(&relay)), &trust);
        let done = stream.conn.complete_io(&mut stream.sock).is_ok();
        drop(stream);
        // it counts no more as one of a stranger's
        wait_until("it is gone", || relay.connections().tls == 0);
        done
    };
    for _ in 0..4 * 5 {
        assert!(shakes_hands());
    }
    assert!(!shakes_hands());
    assert_eq!(quota_hits(&relay, QuotaHit::HandshakesOfPrefix), 1);
    clock.advance(Duration::from_secs(1));
    assert!(shakes_hands());
}
