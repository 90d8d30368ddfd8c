//! TCP allocations, RFC 6062.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use turn_relay::workers::Workers;
use turn_relay_proto::{
    counters::Direction,
    policy::PeerPolicy,
    stun::{AttributeType, Class, Method},
};

use crate::{
    client::{Client, PATIENCE, Wire},
    relay::{core, reloadable, start},
    stream::{Framed, connect, tcp_client, tls_client},
    streams::{is_closed, tcp_address, tcp_settings, tls_address, tls_settings, wait_until},
};

/// How often something is tried that may be on one thread or on two.
const TRIES: usize = 6;

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn allocate<W: Wire>(client: &mut Client<W>) -> SocketAddr {
    client.allocate_with(&|writer| {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
    })
}

/// The CONNECTION-ID of a connection to `peer`, or the error code.
fn connect_to<W: Wire>(client: &mut Client<W>, peer: SocketAddr) -> Result<Vec<u8>, [u8; 4]> {
    let answer = client.ask(Method::Connect, &|writer| {
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
    });
    let message = answer.message();
    if let Some(id) = message.value(AttributeType::CONNECTION_ID) {
        return Ok(id.to_vec());
    }
    let code = message.value(AttributeType::ERROR_CODE).expect("an error");
    Err(code.try_into().expect("without a reason"))
}

/// Sends ConnectionBind on a connection of its own, and `more` right behind it.
fn bind<S: Read + Write>(data: &mut Client<Framed<S>>, id: &[u8], more: &[u8]) -> bool {
    // gets a nonce for this connection
    data.ask(Method::Refresh, &|_| {});
    let mut request = data.request(Method::ConnectionBind, &|writer| {
        writer.attribute(AttributeType::CONNECTION_ID, id);
    });
    request.extend(more);
    data.wire.send(&request);
    data.answer().message().class() == Class::Success
}

fn relay() -> Workers {
    let mut settings = tcp_settings();
    settings.workers = 3;
    start(settings, reloadable())
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("the relay connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
}

/// A client's data connection and its peer, joined.
fn joined(relay: &Workers) -> (Client<Framed<TcpStream>>, TcpStream, TcpStream) {
    let mut control = tcp_client(tcp_address(relay));
    let relayed = allocate(&mut control);
    let (listener, address) = listener();
    control.permit(address);
    let id = connect_to(&mut control, address).expect("the peer listens");
    let peer = accept(&listener);
    assert_eq!(peer.peer_addr().expect("connected"), relayed);
    let mut data = tcp_client(tcp_address(relay));
    assert!(bind(&mut data, &id, b""));
    (control, data.wire.stream, peer)
}

fn read(stream: &mut impl Read, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    stream.read_exact(&mut buffer).expect("it comes");
    buffer
}

#[test]
fn a_connection_to_a_peer_carries_bytes_both_ways() {
    let relay = relay();
    for _ in 0..TRIES {
        let (_control, mut data, mut peer) = joined(&relay);
        data.write_all(b"from the client").expect("connected");
        assert_eq!(read(&mut peer, 15), b"from the client");
        // not framed: this is no message of STUN's
        peer.write_all(b"GET / HTTP/1.1").expect("connected");
        assert_eq!(read(&mut data, 14), b"GET / HTTP/1.1");
    }
}

#[test]
fn what_stands_behind_the_request_that_joins_is_the_peers() {
    let relay = relay();
    for _ in 0..TRIES {
        let mut control = tcp_client(tcp_address(&relay));
        allocate(&mut control);
        let (listener, address) = listener();
        control.permit(address);
        let id = connect_to(&mut control, address).expect("the peer listens");
        let mut peer = accept(&listener);
        // what the peer says before it is joined waits
        peer.write_all(b"welcome").expect("connected");
        let mut data = tcp_client(tcp_address(&relay));
        assert!(bind(&mut data, &id, b"at once"));
        assert_eq!(read(&mut peer, 7), b"at once");
        let mut came = data.wire.rest();
        let missing = 7 - came.len();
        came.extend(read(&mut data.wire.stream, missing));
        assert_eq!(came, b"welcome");
    }
}

#[test]
fn a_peer_with_permission_may_connect() {
    let (settings, trust) = tls_settings();
    let relay = start(settings, reloadable());
    for _ in 0..TRIES {
        let mut control = tls_client(tls_address(&relay), &trust);
        let relayed = allocate(&mut control);
        control.permit(SocketAddr::from(([127, 0, 0, 1], 1)));
        let mut peer = connect(relayed);
        let attempt = control.indication(Method::ConnectionAttempt);
        let message = attempt.message();
        assert_eq!(
            message.xor_address(AttributeType::XOR_PEER_ADDRESS),
            peer.local_addr().ok()
        );
        let id = message.value(AttributeType::CONNECTION_ID).expect("named");
        let mut data = tls_client(tls_address(&relay), &trust);
        assert!(bind(&mut data, id, b""));
        data.wire.stream.write_all(b"hello").expect("connected");
        assert_eq!(read(&mut peer, 5), b"hello");
        peer.write_all(b"hello yourself").expect("connected");
        assert_eq!(read(&mut data.wire.stream, 14), b"hello yourself");
    }
}

#[test]
fn a_peer_without_permission_is_closed() {
    let relay = relay();
    let mut control = tcp_client(tcp_address(&relay));
    let relayed = allocate(&mut control);
    assert!(is_closed(&mut connect(relayed)));
}

#[test]
fn a_peer_that_refuses_is_told() {
    let relay = relay();
    let mut control = tcp_client(tcp_address(&relay));
    allocate(&mut control);
    let (_, nobody) = listener();
    control.permit(nobody);
    assert_eq!(connect_to(&mut control, nobody), Err([0, 0, 4, 47]));
}

/// More both ways at once than all buffers of the system's hold, to readers that begin when nothing goes any more.
#[test]
fn a_slow_reader_slows_the_sender_and_nothing_is_lost() {
    const LEN: usize = 32_000_000;
    let relay = relay();
    let (_control, data, peer) = joined(&relay);
    let all: Vec<u8> = (0..=250).cycle().take(LEN).collect();
    thread::scope(|scope| {
        let briefly = Some(Duration::from_millis(200));
        let stuck = [&data, &peer].map(|mut stream| {
            stream.set_write_timeout(briefly).expect("not zero");
            let all = &all;
            scope.spawn(move || {
                let mut sent = 0;
                while sent < LEN
                    && let Ok(len) = stream.write(&all[sent..])
                {
                    sent += len;
                }
                sent
            })
        });
        let stuck = stuck.map(|sender| sender.join().expect("no panic"));
        for (mut stream, sent) in [&data, &peer].into_iter().zip(stuck) {
            assert!(sent < LEN, "nothing slows the sender");
            stream.set_write_timeout(None).expect("possible");
            let all = &all;
            scope.spawn(move || {
                stream.write_all(&all[sent..]).expect("connected");
                stream.shutdown(Shutdown::Write).expect("connected");
            });
            scope.spawn(move || {
                let mut received = Vec::new();
                stream.read_to_end(&mut received).expect("it ends");
                assert!(received == *all, "{} bytes", received.len());
            });
        }
    });
}

#[test]
fn the_end_of_one_direction_leaves_the_other() {
    let relay = relay();
    for _ in 0..TRIES {
        let (_control, mut data, mut peer) = joined(&relay);
        data.write_all(b"question").expect("connected");
        data.shutdown(Shutdown::Write).expect("connected");
        let mut question = Vec::new();
        peer.read_to_end(&mut question).expect("it ends");
        assert_eq!(question, b"question");
        peer.write_all(b"answer").expect("connected");
        drop(peer);
        let mut answer = Vec::new();
        data.read_to_end(&mut answer).expect("it ends");
        assert_eq!(answer, b"answer");
    }
    wait_until("data connections are gone", || relay.connections().tcp == 0);
}

/// The allocation's thread need not be the data connection's.
#[test]
fn with_the_allocation_all_of_its_connections_end() {
    let relay = relay();
    for _ in 0..TRIES {
        let (control, mut data, mut peer) = joined(&relay);
        drop(control);
        assert!(is_closed(&mut data));
        assert!(is_closed(&mut peer));
    }
}

#[test]
fn a_connection_that_ended_may_be_made_again() {
    let relay = relay();
    for _ in 0..TRIES {
        let mut control = tcp_client(tcp_address(&relay));
        allocate(&mut control);
        let (listener, address) = listener();
        control.permit(address);
        let id = connect_to(&mut control, address).expect("the peer listens");
        let mut peer = accept(&listener);
        // there is one with the same two ends
        assert_eq!(connect_to(&mut control, address), Err([0, 0, 4, 46]));
        let mut data = tcp_client(tcp_address(&relay));
        assert!(bind(&mut data, &id, b""));
        // the peer closes first, so that the relay's port does not stay in TIME_WAIT
        peer.shutdown(Shutdown::Write).expect("connected");
        assert!(is_closed(&mut data.wire.stream));
        drop(data);
        assert!(is_closed(&mut peer));
        drop(peer);
        let again = (0..200).find_map(|_| {
            let result = connect_to(&mut control, address).ok();
            if result.is_none() {
                thread::sleep(Duration::from_millis(10));
            }
            result
        });
        assert!(again.is_some(), "the server has not heard of the end");
    }
}

#[test]
fn connections_with_peers_have_no_more_than_the_users_bandwidth() {
    const BANDWIDTH: u64 = 200_000;
    // a second's worth goes at once, another takes a second
    const LEN: usize = 400_000;
    let mut core = core();
    core.quotas.bandwidth_per_user = Some(BANDWIDTH);
    let mut reloadable = reloadable();
    reloadable.core = Arc::new(core);
    let (settings, trust) = tls_settings();
    let relay = start(settings, reloadable);
    let mut control = tls_client(tls_address(&relay), &trust);
    allocate(&mut control);
    let (listener, address) = listener();
    control.permit(address);
    let id = connect_to(&mut control, address).expect("the peer listens");
    let mut peer = accept(&listener);
    let mut data = tls_client(tls_address(&relay), &trust);
    assert!(bind(&mut data, &id, b""));
    let mut data = data.wire.stream;

    let sent: Vec<u8> = (0..=250).cycle().take(LEN).collect();
    let now = || shared::clock::Clock::system().now();
    let least = Duration::from_millis(900);
    let start = now();
    thread::scope(|scope| {
        scope.spawn(|| data.write_all(&sent).expect("connected"));
        assert!(read(&mut peer, LEN) == sent);
    });
    assert!(start.elapsed() > least, "{:?}", start.elapsed());
    let start = now();
    thread::scope(|scope| {
        scope.spawn(|| peer.write_all(&sent).expect("connected"));
        assert!(read(&mut data, LEN) == sent);
    });
    assert!(start.elapsed() > least, "{:?}", start.elapsed());
    let bytes = |direction| -> u64 {
        let counters = relay.counters().iter();
        counters.map(|counters| counters.bytes.get(direction)).sum()
    };
    assert_eq!(bytes(Direction::ClientToPeer), LEN as u64);
    assert_eq!(bytes(Direction::PeerToClient), LEN as u64);
}

#[test]
fn a_reload_that_denies_a_peer_closes_the_connections_with_it() {
    let relay = relay();
    let all: Vec<_> = (0..TRIES).map(|_| joined(&relay)).collect();
    let mut core = core();
    core.policy = Arc::new(PeerPolicy::default());
    let mut reloadable = reloadable();
    reloadable.core = Arc::new(core);
    relay.reconfigure(reloadable);
    for (mut control, mut data, mut peer) in all {
        assert!(is_closed(&mut data));
        assert!(is_closed(&mut peer));
        let answer = control.ask(Method::Refresh, &|_| {});
        assert_eq!(
            answer.message().class(),
            Class::Success,
            "the allocation stays"
        );
    }
}
