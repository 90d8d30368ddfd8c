//! The clients' connections of one thread, found by the number that the core names them by.
//!
//! It knows in which stage of its life a connection is, and nothing of allocations.

use std::{fmt, net::SocketAddr};

use turn_relay_proto::{FiveTuple, Link, Time, Transport};

use super::{handovers::Handover, ready::Queued, strangers::Stranger, stream::Stream};

/// Bits of a [`Link`] that are the connection's place. A thread has no more connections than this says.
const SLOT_BITS: u32 = 20;
/// Bits of a [`Link`] that are the place and the count of connections of the thread: enough for a thousand a second
/// for a year. Above them is whether it is a DTLS session.
const COUNT_END: u32 = 55;
/// The bits below the number of the thread, from 1 on: smaller numbers are those of [locals](super::locals).
const WORKER_SHIFT: u32 = 56;

/// All connections of one thread.
#[derive(Debug)]
pub struct Connections {
    worker: u64,
    /// Connections that there were.
    count: u64,
    slots: Vec<Option<Box<Connection>>>,
    free: Vec<u32>,
}

/// One client's connection.
pub struct Connection {
    /// How it is named.
    pub link: Link,
    /// Bytes in and out.
    pub stream: Stream,
    /// The client: until there was a PROXY header that is the proxy.
    pub client: SocketAddr,
    /// What is expected of it.
    pub stage: Stage,
    /// The beginning of what has not come in full.
    pub leftover: Vec<u8>,
    /// Whether it waits to be read.
    pub queued: Queued,
    /// Whether the other side has closed, so that a read that brings little is not the last one.
    pub is_ending: bool,
    /// Counts as one of a stranger's until there was an authentic request.
    pub stranger: Option<Stranger>,
    /// Whether there is an allocation.
    pub has_allocation: bool,
    /// Requests that came without there being one.
    pub unproven: u8,
    /// Whether HTTP over TLS is for the HTTPS backend.
    pub is_https: bool,
    /// Counts as one of the HTTPS backend's, once it was handed over.
    pub handover: Option<Handover>,
    /// When it was accepted.
    pub accepted: Time,
    /// When it is closed if nothing happens.
    pub deadline: Option<Time>,
    /// The earliest entry among the thread's deadlines.
    pub entered: Option<Time>,
}

/// What is expected next on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A PROXY header.
    Proxy,
    /// The byte that tells TLS from STUN.
    FirstByte,
    /// The rest of a TLS handshake.
    Handshake,
    /// The bytes that tell STUN from HTTP.
    Opening,
    /// The rest of an HTTP request's head, of which so many bytes were searched for its end.
    Head(usize),
    /// STUN and ChannelData.
    Messages,
    /// The bytes of a connection with a peer (RFC 6062 §5.4) or with the HTTPS backend, which has that place.
    Joined(u32),
    /// Nothing: what waits is written, then it is closed.
    Leaving,
}

impl Connections {
    /// None yet. `worker` is the number of the thread, 254 at most.
    #[must_use]
    pub fn new(worker: usize) -> Self {
        Self {
            worker: worker as u64,
            count: 0,
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Enters a connection. Its number is made by `make`; `None` if there are too many.
    pub fn insert(&mut self, make: impl FnOnce(Link) -> Connection) -> Option<u32> {
        let slot = if let Some(slot) = self.free.pop() {
            slot
        } else {
            let slot = u32::try_from(self.slots.len()).ok()?;
            if slot >> SLOT_BITS != 0 {
                return None;
            }
            self.slots.push(None);
            slot
        };
        let link = connection_link(self.worker, self.count, slot);
        self.count += 1;
        self.slots[slot as usize] = Some(Box::new(make(link)));
        Some(slot)
    }

    /// The connection at that place.
    pub fn at(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// The place of the connection of that name, if it was not closed.
    #[must_use]
    pub fn slot(&self, link: Link) -> Option<u32> {
        let slot = slot(link);
        let connection = self.slots.get(slot as usize)?.as_ref()?;
        (connection.link == link).then_some(slot)
    }

    /// Takes the connection out; it is closed when it is dropped.
    pub fn remove(&mut self, slot: u32) -> Option<Box<Connection>> {
        let connection = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(connection)
    }

    /// The thread that has the connection of that name; `None` if it is not a connection's.
    #[must_use]
    pub fn worker(link: Link) -> Option<usize> {
        usize::try_from(link.0 >> WORKER_SHIFT).ok()?.checked_sub(1)
    }
}

/// The number of the `count`th connection of a thread, at the place `slot`.
fn connection_link(worker: u64, count: u64, slot: u32) -> Link {
    let count = count & ((1 << (COUNT_END - SLOT_BITS)) - 1);
    Link((worker + 1) << WORKER_SHIFT | count << SLOT_BITS | u64::from(slot))
}

/// The number of the `count`th DTLS session of a thread, at the place `slot`, which is no connection's number.
#[cfg(feature = "dtls")]
pub(super) fn session_link(worker: usize, count: u64, slot: u32) -> Link {
    Link(connection_link(worker as u64, count, slot).0 | 1 << COUNT_END)
}

/// The place in a number.
pub(super) const fn slot(link: Link) -> u32 {
    const PLACE: u32 = (1 << SLOT_BITS) - 1;
    let [.., a, b, c, d] = link.0.to_be_bytes();
    u32::from_be_bytes([a, b, c, d]) & PLACE
}

impl Connection {
    /// As the core knows the client.
    #[must_use]
    pub const fn five_tuple(&self) -> FiveTuple {
        FiveTuple {
            client: self.client,
            link: self.link,
            transport: if self.stream.is_encrypted() {
                Transport::Tls
            } else {
                Transport::Tcp
            },
        }
    }
}

/// Shows no address.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("link", &self.link)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn insert(connections: &mut Connections, listener: &TcpListener) -> (u32, Link) {
        let client = listener.local_addr().expect("bound");
        let socket = TcpStream::connect(client).expect("loopback");
        let slot = connections
            .insert(|link| Connection {
                link,
                stream: Stream::new(socket),
                client,
                stage: Stage::FirstByte,
                leftover: Vec::new(),
                queued: Queued::No,
                is_ending: false,
                stranger: None,
                has_allocation: false,
                unproven: 0,
                is_https: false,
                handover: None,
                accepted: Time::default(),
                deadline: None,
                entered: None,
            })
            .expect("there is space");
        (slot, connections.at(slot).expect("inserted").link)
    }

    #[test]
    fn no_two_connections_have_the_same_number() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let (mut one, mut other) = (Connections::new(0), Connections::new(254));
        let (slot, first) = insert(&mut one, &listener);
        let (_, second) = insert(&mut one, &listener);
        let (_, of_other) = insert(&mut other, &listener);
        one.remove(slot);
        let (again, third) = insert(&mut one, &listener);
        assert_eq!(again, slot);
        let all = [first, second, third, of_other];
        for (index, link) in all.iter().enumerate() {
            assert!(!all[..index].contains(link), "{all:?}");
        }
        assert_eq!(Connections::worker(first), Some(0));
        assert_eq!(Connections::worker(of_other), Some(254));
        assert_eq!(Connections::worker(Link(4_095)), None);
        assert_eq!(one.slot(first), None, "its place has another one now");
        assert_eq!(one.slot(third), Some(slot));
    }
}
