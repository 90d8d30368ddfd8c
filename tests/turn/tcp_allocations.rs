//! TCP to peers, RFC 6062: where the operator allows it, and nowhere else.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use stun_types::message::MessageClass;

use crate::{
    client::{
        ALLOCATE, Answer, CONNECT, CONNECTION_ATTEMPT, CONNECTION_BIND, CONNECTION_ID, Client,
        Credentials, XOR_PEER_ADDRESS, connection_id, peer, tcp_transport, udp_transport,
    },
    relay::{Relay, Setup},
    time::{PATIENCE, eventually},
    wire::{self, Received, Wire},
};

fn relay(more: &Value) -> Relay {
    let config = crate::relay::merged(&json!({"relay": {"tcp": true}}), more);
    Setup::new(&config).with_tls(&[]).start()
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    patient(&stream);
    stream
}

fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

/// The ID of the connection with a peer, or the error code.
fn try_connect(client: &mut Client, to: SocketAddr) -> Result<Vec<u8>, u16> {
    let answer = client.ask(CONNECT, &[peer(to)]);
    match answer.code() {
        Some(code) => Err(code),
        None => Ok(answer.value(CONNECTION_ID).unwrap()),
    }
}

/// The client's data connection for a connection with a peer.
fn data_connection(relay: &Relay, control: &Client, id: &[u8]) -> TcpStream {
    data_connection_with(relay, control, id, b"")
}

/// As [`data_connection`], for a peer that has sent something already.
fn data_connection_with(relay: &Relay, control: &Client, id: &[u8], sent: &[u8]) -> TcpStream {
    let mut client = Client::with(wire::tcp(relay.tcp[0]), control.credentials.clone());
    let answer = client.ask(CONNECTION_BIND, &[connection_id(id)]);
    assert_eq!(answer.code(), None);
    let (mut stream, mut received) = client.wire.into_tcp();
    patient(&stream);
    // the answer and what stands behind it may have come together
    let begun = received.len();
    received.resize(sent.len().max(begun), 0);
    stream.read_exact(&mut received[begun..]).unwrap();
    assert_eq!(received, sent);
    stream
}

fn assert_talks(mut one: &TcpStream, mut other: &TcpStream) {
    for (len, byte) in [(1, 1), (1000, 2), (100_000, 3)] {
        let sent = vec![byte; len];
        let mut received = vec![0; len];
        one.write_all(&sent).unwrap();
        other.read_exact(&mut received).unwrap();
        assert!(received == sent);
        received.fill(0);
        other.write_all(&sent).unwrap();
        one.read_exact(&mut received).unwrap();
        assert!(received == sent);
    }
}

fn assert_closed(mut stream: &TcpStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it is open"),
    }
    assert_eq!(rest, b"");
}

#[test]
fn nobody_gets_one_unless_the_operator_says_so() {
    let mut relay = Setup::new(&json!({})).with_tls(&[]).start();
    for mut client in [relay.tcp_client(), relay.tls_client(), relay.udp_client()] {
        let answer = client.ask(ALLOCATE, &[tcp_transport()]);
        assert_eq!(answer.code(), Some(442));
    }
    relay.reload(&json!({"relay": {"tcp": true}}));
    relay.tcp_client().allocate_with(&[tcp_transport()]);
    // RFC 6062 §5.1
    let answer = relay.udp_client().ask(ALLOCATE, &[tcp_transport()]);
    assert_eq!(answer.code(), Some(400));
    relay.udp_client().allocate();
}

#[test]
fn a_client_connects_to_a_peer() {
    let relay = relay(&json!({}));
    for mut control in [relay.tcp_client(), relay.tls_client()] {
        let relayed = control.allocate_with(&[tcp_transport()]);
        let listener = listener();
        let id = try_connect(&mut control, listener.local_addr().unwrap()).unwrap();
        let at_peer = accept(&listener);
        assert_eq!(at_peer.peer_addr().unwrap(), relayed);
        // what the peer says first waits
        (&at_peer).write_all(b"220 welcome").unwrap();
        let data = data_connection_with(&relay, &control, &id, b"220 welcome");
        assert_talks(&data, &at_peer);
        assert_eq!(control.refresh(600), Ok(600));
        // both ends go together
        drop(data);
        assert_closed(&at_peer);
        // and the other way
        let listener = self::listener();
        let id = try_connect(&mut control, listener.local_addr().unwrap()).unwrap();
        let at_peer = accept(&listener);
        let data = data_connection(&relay, &control, &id);
        drop(at_peer);
        assert_closed(&data);
        control.refresh(0).unwrap();
    }
}

#[test]
fn a_peer_with_permission_connects_to_a_client() {
    let relay = relay(&json!({}));
    let mut control = relay.tcp_client();
    let relayed = control.allocate_with(&[tcp_transport()]);
    let from = |address: Ipv4Addr| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let local = SocketAddr::new(IpAddr::V4(address), 0);
        socket.bind(&local.into()).unwrap();
        let connected = socket.connect_timeout(&relayed.into(), PATIENCE);
        let stream: TcpStream = socket.into();
        patient(&stream);
        connected.map(|()| stream)
    };
    let allowed = Ipv4Addr::new(127, 0, 0, 21);
    // RFC 6062 §5.3: without permission it ends, and the client is told nothing
    if let Ok(stream) = from(allowed) {
        assert_closed(&stream);
    }
    assert_eq!(control.permit(allowed), None);
    let at_peer = from(allowed).unwrap();
    (&at_peer).write_all(b"hello").unwrap();
    let attempt: Answer = control.indication(CONNECTION_ATTEMPT);
    assert_eq!(attempt.message().class(), MessageClass::Indication);
    let source = attempt.xor(XOR_PEER_ADDRESS);
    assert_eq!(source, Some(at_peer.local_addr().unwrap()));
    let id = attempt.value(CONNECTION_ID).unwrap();
    let data = data_connection_with(&relay, &control, &id, b"hello");
    assert_talks(&data, &at_peer);
    if let Ok(stream) = from(Ipv4Addr::new(127, 0, 0, 22)) {
        assert_closed(&stream);
    }
    // everything goes with the allocation
    assert_eq!(control.refresh(0), Ok(0));
    assert_closed(&at_peer);
    assert_closed(&data);
    let refused = from(allowed).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn the_policy_is_asked_here_too() {
    let inside = listener();
    let mut relay = relay(&json!({"peers": {
        "allow": ["127.0.0.2/32"],
        "deny_ports": ["1-1023"],
    }}));
    let mut control = relay.tcp_client();
    control.allocate_with(&[tcp_transport()]);
    let denied = |text: &str| text.parse::<SocketAddr>().unwrap();
    let mut elsewhere = inside.local_addr().unwrap();
    elsewhere.set_ip([127, 0, 0, 3].into());
    for to in [
        elsewhere,
        denied("10.0.0.1:5000"),
        denied("169.254.169.254:80"),
        denied("127.0.0.2:22"),
        denied("127.0.0.2:0"),
    ] {
        assert_eq!(try_connect(&mut control, to), Err(403), "{to}");
    }
    // the relay's own address: no service of the host's
    let code = try_connect(&mut control, inside.local_addr().unwrap());
    assert!(matches!(code, Err(403 | 447)), "{code:?}");
    let code = try_connect(&mut control, relay.http);
    assert!(matches!(code, Err(403 | 447)), "{code:?}");
    inside.set_nonblocking(true).unwrap();
    assert_eq!(inside.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(relay.metric("denials_total", "connect") >= 5);

    // a reload denies what was allowed
    let listen = || TcpListener::bind("127.0.0.2:0").unwrap();
    let (listener, other) = (listen(), listen());
    let id = try_connect(&mut control, listener.local_addr().unwrap()).unwrap();
    let at_peer = accept(&listener);
    let data = data_connection(&relay, &control, &id);
    assert_talks(&data, &at_peer);
    relay.reload(&json!({"peers": {"allow": ["127.0.0.9/32"]}}));
    assert_eq!(
        try_connect(&mut control, other.local_addr().unwrap()),
        Err(403)
    );
}

#[test]
fn what_cannot_be_connected_is_told() {
    let relay = relay(&json!({}));
    let mut control = relay.tcp_client();
    // RFC 6062 §4.3, §5.2
    let nobody = listener().local_addr().unwrap();
    assert_eq!(try_connect(&mut control, nobody), Err(437));
    control.allocate_with(&[tcp_transport()]);
    assert_eq!(try_connect(&mut control, nobody), Err(447));
    let listener = listener();
    let there = listener.local_addr().unwrap();
    let id = try_connect(&mut control, there).unwrap();
    assert_eq!(try_connect(&mut control, there), Err(446));
    assert_eq!(control.ask(CONNECT, &[]).code(), Some(400));

    // not with an ID that nobody has, nor by somebody else, nor twice, nor over UDP
    let bind =
        |mut client: Client, id: &[u8]| client.ask(CONNECTION_BIND, &[connection_id(id)]).code();
    let same_user = || Client::with(wire::tcp(relay.tcp[0]), control.credentials.clone());
    let unknown: Vec<u8> = id.iter().map(|byte| !byte).collect();
    assert_eq!(bind(same_user(), &unknown), Some(400));
    let mallory = Client::with(wire::tcp(relay.tcp[0]), Credentials::of("mallory"));
    assert!(matches!(bind(mallory, &id), Some(400 | 403 | 441)));
    let over_udp = Client::with(wire::udp(relay.udp[0]), control.credentials.clone());
    assert_eq!(bind(over_udp, &id), Some(400));
    let data = data_connection(&relay, &control, &id);
    assert_eq!(bind(same_user(), &id), Some(400));
    assert_talks(&data, &accept(&listener));
}

#[test]
fn data_connections_in_tls_do_as_well() {
    let relay = relay(&json!({}));
    let mut control = relay.tls_client();
    control.allocate_with(&[tcp_transport()]);
    let listener = listener();
    let id = try_connect(&mut control, listener.local_addr().unwrap()).unwrap();
    let mut at_peer = accept(&listener);
    let wire = wire::tls(relay.tcp[0], &relay.tls_config(&[]));
    let mut data = Client::with(wire, control.credentials.clone());
    assert_eq!(
        data.ask(CONNECTION_BIND, &[connection_id(&id)]).code(),
        None
    );
    let Wire::Tls(mut framed) = data.wire else {
        unreachable!("it is TLS");
    };
    framed.stream.write_all(b"to the peer").unwrap();
    framed.stream.flush().unwrap();
    let mut received = [0; 11];
    at_peer.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"to the peer");
    at_peer.write_all(b"from a peer").unwrap();
    framed.stream.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"from a peer");
}

#[test]
fn a_megabyte_after_another_goes_through_whole_and_nobody_buffers_what_is_not_read() {
    const LEN: usize = 30 << 20;

    let relay = relay(&json!({}));
    let mut control = relay.tcp_client();
    control.allocate_with(&[tcp_transport()]);
    let listener = listener();
    let id = try_connect(&mut control, listener.local_addr().unwrap()).unwrap();
    let at_peer = accept(&listener);
    let data = data_connection(&relay, &control, &id);
    let byte = |index: usize| u8::try_from(index % 251).unwrap();
    let before = relay.resident();
    for (from, to) in [(&data, &at_peer), (&at_peer, &data)] {
        thread::scope(|scope| {
            scope.spawn(|| {
                let all: Vec<u8> = (0..LEN).map(byte).collect();
                (&*from).write_all(&all).unwrap();
            });
            // nobody reads yet; the sender has to wait
            thread::sleep(Duration::from_millis(500));
            let waiting = relay.resident();
            assert!(waiting < before + 8192, "{before} KiB, then {waiting} KiB");
            let mut received = vec![0; LEN];
            (&*to).read_exact(&mut received).unwrap();
            assert!(
                received
                    .iter()
                    .enumerate()
                    .all(|(index, got)| *got == byte(index))
            );
        });
    }
}

/// RFC 6062 §5.4: what is not bound within 30 seconds is closed.
#[test]
fn a_connection_that_nobody_binds_is_given_up() {
    let relay = relay(&json!({}));
    let mut control = relay.tcp_client();
    control.allocate_with(&[tcp_transport()]);
    let listener = listener();
    let id = try_connect(&mut control, listener.local_addr().unwrap()).unwrap();
    let at_peer = accept(&listener);
    assert_closed(&at_peer);
    let mut late = Client::with(wire::tcp(relay.tcp[0]), control.credentials.clone());
    let answer = late.ask(CONNECTION_BIND, &[connection_id(&id)]);
    assert_eq!(answer.code(), Some(400));
    // and the allocation is as good as before
    let listener = self::listener();
    try_connect(&mut control, listener.local_addr().unwrap()).unwrap();
}

#[test]
fn everything_ends_with_the_control_connection() {
    let relay = relay(&json!({}));
    let mut control = relay.tcp_client();
    let relayed = control.allocate_with(&[tcp_transport()]);
    let listener = listener();
    let there = listener.local_addr().unwrap();
    let id = try_connect(&mut control, there).unwrap();
    let bound = accept(&listener);
    let data = data_connection(&relay, &control, &id);
    control.wire.close();
    assert_closed(&bound);
    assert_closed(&data);
    assert!(eventually(|| relay.allocations() == 0));
    assert!(TcpStream::connect(relayed).is_err());
    assert!(eventually(|| relay.metric("connections", "") == 0));
    // and nothing of an allocation for datagrams is one for streams
    let mut client = relay.tcp_client();
    client.allocate_with(&[udp_transport()]);
    let code = try_connect(&mut client, there);
    assert!(matches!(code, Err(400 | 403 | 437)), "{code:?}");
    assert!(!matches!(
        client.wire.receive(Duration::ZERO),
        Received::Closed
    ));
}
