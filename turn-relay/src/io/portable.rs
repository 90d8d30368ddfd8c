//! Datagrams with what every system has: one call for each.
//!
//! Answers of a listener on all addresses leave from the address that the system chooses; traffic classes, the DF bit
//! and ICMP errors are not dealt with.

use std::{
    io::{self, IoSlice},
    net::UdpSocket,
    os::fd::AsRawFd as _,
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use socket2::Socket;
use turn_relay_proto::{IcmpError, policy::unmapped};

use super::datagrams::{Arena, BATCH, Datagrams, Envelope, Left, Role};

/// `recv_from` and `send_to`.
#[derive(Debug, Default)]
pub struct PortableDatagrams;

impl PortableDatagrams {
    /// One.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Datagrams for PortableDatagrams {
    fn prepare(&self, _socket: &Socket, _role: Role) -> io::Result<()> {
        Ok(())
    }

    fn watch(&self, registry: &Registry, socket: &UdpSocket, token: Token) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// The poll tells once of what comes: a socket has to be emptied, whatever was asked for.
    fn receive(
        &mut self,
        socket: &UdpSocket,
        arena: &mut Arena,
        _at_most: usize,
    ) -> io::Result<Left> {
        arena.clear();
        while arena.len() < BATCH {
            match socket.recv_from(arena.next_slot()) {
                Ok((len, from)) => arena.push(len, len, unmapped(from), None, 0),
                Err(error) if arena.is_empty() => return Err(error),
                Err(_) => return Ok(Left::Nothing),
            }
        }
        Ok(Left::Something)
    }

    fn send(
        &mut self,
        socket: &UdpSocket,
        envelope: &Envelope,
        datagrams: &[IoSlice<'_>],
    ) -> usize {
        let is_lost = |datagram: &&IoSlice<'_>| {
            let attempt = || socket.send_to(datagram, envelope.to);
            attempt()
                .or_else(|error| {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        return Err(error);
                    }
                    // perhaps that of an earlier datagram, of which the system tells once
                    attempt()
                })
                .is_err()
        };
        datagrams.iter().filter(is_lost).count()
    }

    fn icmp_error(&mut self, _socket: &UdpSocket) -> Option<IcmpError> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_received_a_batch_at_a_time_and_sent_one_by_one() {
        let one = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let other = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        for socket in [&one, &other] {
            socket.set_nonblocking(true).expect("possible");
        }
        let mut datagrams = PortableDatagrams::new();
        let mut arena = Arena::new();
        let receive = |arena: &mut Arena| PortableDatagrams::new().receive(&other, arena, 1);
        let error = receive(&mut arena).expect_err("nothing");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let envelope = Envelope {
            to: other.local_addr().expect("bound"),
            from: None,
            traffic_class: 0,
            dont_fragment: false,
        };
        let run = [IoSlice::new(b"one"), IoSlice::new(b"two")];
        for _ in 0..BATCH {
            assert_eq!(datagrams.send(&one, &envelope, &run), 0);
        }
        for _ in 0..2 {
            assert_eq!(receive(&mut arena).ok(), Some(Left::Something));
            assert_eq!(arena.len(), BATCH);
            for (index, expected) in [(0, b"one"), (BATCH - 1, b"two")] {
                let received = arena.get(index).expect("received");
                assert_eq!(received.from, one.local_addr().expect("bound"));
                assert_eq!(&arena.memory()[received.range.clone()], expected);
            }
        }
        assert_eq!(datagrams.send(&one, &envelope, &run), 0);
        assert_eq!(receive(&mut arena).ok(), Some(Left::Nothing));
        assert_eq!(arena.len(), 2);
    }
}
