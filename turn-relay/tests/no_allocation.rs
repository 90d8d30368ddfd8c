//! What relaying a packet takes of the allocator, on all threads and whichever way it goes: nothing. Alone in its process, since the
//! allocator is the process's.

#[path = "workers/client.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod client;
#[path = "workers/relay.rs"]
mod relay;
#[path = "workers/stream.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod stream;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    client::{PATIENCE, send_indication, udp_client},
    relay::{reloadable, settings, start},
    stream::tcp_client,
};

static COUNTING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, which is watched.
struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn count() {
    if COUNTING.load(Ordering::Relaxed) {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its interface")]
// SAFETY: everything is left to the system's allocator, with the arguments unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// How packets are sent and received, without taking anything of the allocator either.
enum End {
    /// Datagrams, to whom the socket is connected.
    Connected(UdpSocket),
    /// Datagrams to that address.
    To(UdpSocket, SocketAddr),
    /// So many bytes for each message.
    Stream(TcpStream, usize),
}

impl End {
    fn send(&self, message: &[u8]) {
        let sent = match self {
            Self::Connected(socket) => socket.send(message),
            Self::To(socket, to) => socket.send_to(message, to),
            Self::Stream(stream, _) => (&*stream).write(message),
        };
        assert_eq!(sent.expect("sent"), message.len());
    }

    fn receive(&self, buffer: &mut [u8]) {
        let len = match self {
            Self::Connected(socket) | Self::To(socket, _) => socket.recv(buffer),
            Self::Stream(stream, len) => (&*stream).read_exact(&mut buffer[..*len]).map(|()| *len),
        };
        assert!(len.expect("it comes") >= PAYLOAD.len());
    }
}

const PAYLOAD: [u8; 160] = [7; 160];

/// How many calls of the allocator there are while so many packets go from one end to the other.
fn calls(packets: usize, from: &End, message: &[u8], to: &End) -> u64 {
    let mut buffer = [0; 2_048];
    CALLS.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    for _ in 0..packets {
        from.send(message);
        to.receive(&mut buffer);
    }
    COUNTING.store(false, Ordering::Relaxed);
    CALLS.load(Ordering::Relaxed)
}

#[test]
fn a_relayed_packet_takes_nothing_of_the_allocator() {
    let mut settings = settings();
    settings.tcp = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let relay = start(settings, reloadable());
    let (udp, tcp) = (relay.local_addresses()[0], relay.local_addresses()[1]);
    let (mut one, mut other, mut stream) = (udp_client(udp), udp_client(udp), tcp_client(tcp));
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    peer.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let at_peer = peer.local_addr().expect("bound");
    // without a channel for the peer
    let (mut plain, relayed_plain) = {
        let mut client = udp_client(udp);
        let relayed = client.allocate();
        client.permit(at_peer);
        (client, relayed)
    };
    let (relayed, relayed_other, relayed_stream) =
        (one.allocate(), other.allocate(), stream.allocate());
    let to_peer = one.bind(0x4000, at_peer).message(&PAYLOAD);
    let to_other = one.bind(0x4001, relayed_other).message(&PAYLOAD);
    let to_stream = one.bind(0x4002, relayed_stream).message(&PAYLOAD);
    other.bind(0x4000, relayed);
    let from_stream_to_peer = stream.bind(0x4000, at_peer).message(&PAYLOAD);
    let from_stream = stream.bind(0x4001, relayed).message(&PAYLOAD);
    let indication = send_indication(at_peer, &PAYLOAD, false);
    // nothing is left to be received
    plain.permit(at_peer);

    let clone = |socket: &UdpSocket| socket.try_clone().expect("there are open files");
    let peer_to = |relayed| End::To(clone(&peer), relayed);
    let one = End::Connected(one.wire);
    let other = End::Connected(other.wire);
    let plain = End::Connected(plain.wire);
    let stream = End::Stream(stream.wire.stream, 4 + PAYLOAD.len());
    let ways = [
        ("client to peer", &one, &to_peer[..], &peer_to(relayed)),
        ("peer to client", &peer_to(relayed), &PAYLOAD, &one),
        ("Send indication", &plain, &indication, &peer_to(relayed)),
        ("Data indication", &peer_to(relayed_plain), &PAYLOAD, &plain),
        ("client to client", &one, &to_other, &other),
        (
            "stream to peer",
            &stream,
            &from_stream_to_peer,
            &peer_to(relayed),
        ),
        (
            "peer to stream",
            &peer_to(relayed_stream),
            &PAYLOAD,
            &stream,
        ),
        ("client to stream", &one, &to_stream, &stream),
        ("stream to client", &stream, &from_stream, &one),
    ];
    for (way, from, message, to) in ways {
        // what grows with the first packets is there then
        calls(200, from, message, to);
        assert_eq!(calls(1_000, from, message, to), 0, "{way}");
    }
    // and the count counts
    COUNTING.store(true, Ordering::Relaxed);
    drop(std::hint::black_box(vec![0_u8; 1_000]));
    COUNTING.store(false, Ordering::Relaxed);
    assert!(CALLS.load(Ordering::Relaxed) >= 2);
}
