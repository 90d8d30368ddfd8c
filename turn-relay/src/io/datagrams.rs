//! What the relay asks of a system that moves datagrams.
//!
//! The worker knows [`Datagrams`] alone, so that another way of moving them can take the place of system calls without
//! the core or the worker noticing.

use std::{
    fmt,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::Range,
};

use mio::{Registry, Token};
use socket2::Socket;
use turn_relay_proto::{
    IcmpError,
    packet::{HEADROOM, TAILROOM},
};

/// The most datagrams that one call receives. With 8 a datagram of a burst costs a third more, with 64 hardly less
/// (`examples/datagram_costs.rs`).
pub const BATCH: usize = 32;

/// The most datagrams that one call sends to one destination: what Linux takes for one segmented send.
pub const MAX_SEGMENTS: usize = 64;

/// The most bytes of UDP payload that one call sends: an IPv4 packet's.
pub const MAX_SENT: usize = 65_507;

/// The longest datagram, and the longest run of them that a system hands over as one.
const MAX_RECEIVED: usize = 65_536;

/// Where the first datagram of a slot begins: [`HEADROOM`], and more so that payload begins at a cache line.
const LEAD: usize = HEADROOM.next_multiple_of(64);

/// The distance between two slots. Not a multiple of 4,096, or the beginnings of all slots would share one set of the
/// cache.
const SLOT: usize = LEAD + MAX_RECEIVED + (TAILROOM + 1).next_multiple_of(64);

/// Space for the datagrams of one run, each with room around it.
const SPREAD: usize = MAX_RECEIVED + MAX_SEGMENTS * (HEADROOM + TAILROOM) + HEADROOM + TAILROOM;

/// Where received datagrams are put: address space for [`BATCH`] of the longest, of which only what is written to takes
/// memory.
pub struct Arena {
    memory: Box<[u8]>,
    received: Vec<Received>,
}

/// One datagram; or several of one length, but for the last, that came from one source and were handed over as one.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    /// Where in the arena.
    pub range: Range<usize>,
    /// Bytes of each datagram but the last, which may be shorter. 0 for one empty datagram.
    pub stride: usize,
    /// Who sent it. An IPv4 address is IPv4.
    pub from: SocketAddr,
    /// The address that it was sent to, if the socket was told to say.
    pub to: Option<IpAddr>,
    /// DSCP and ECN.
    pub traffic_class: u8,
}

/// What several datagrams that are sent together have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// The destination.
    pub to: SocketAddr,
    /// The local address to send from; `None`: the one that the socket is bound to.
    pub from: Option<IpAddr>,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Whether the DF bit is set; otherwise the system may fragment.
    pub dont_fragment: bool,
}

/// What a socket is for, which decides its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One that clients send to, bound to one address.
    Listener,
    /// One that clients send to, bound to all addresses: received datagrams say to which of them they came.
    WildcardListener,
    /// A relayed transport address: ICMP errors are wanted.
    Relay,
}

/// What is left at a socket that was received from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Perhaps something, of which the poll does not tell again, or that is likely.
    Something,
    /// Nothing, or the poll tells of it.
    Nothing,
}

/// How many datagrams are asked for at once.
///
/// To find out that a socket has no second one takes a tenth of what a datagram costs. So a socket at which one waited is
/// asked for one the next time; unless the thread had no rest since then, and it has one already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Appetite {
    /// When it was asked, by the turns of the thread's.
    turn: u32,
    /// Whether several came.
    is_eager: bool,
}

impl Appetite {
    /// For how many to ask. `turn` rises by one each time that the poll has told what there is, and by more if the
    /// thread had rested until then.
    pub fn ask(&mut self, turn: u32) -> usize {
        let had_no_rest = turn.wrapping_sub(self.turn) <= 1;
        self.turn = turn;
        if self.is_eager || had_no_rest {
            BATCH
        } else {
            1
        }
    }

    /// So many came.
    pub const fn learn(&mut self, count: usize) {
        self.is_eager = count > 1;
    }
}

/// A way of moving datagrams. One thread owns it.
///
/// Sockets do not block.
pub trait Datagrams: fmt::Debug {
    /// Sets the options that a socket of that role needs, before it is bound. What a system does not have is left out.
    ///
    /// # Errors
    ///
    /// If the system refuses what the relay cannot do without.
    fn prepare(&self, socket: &Socket, role: Role) -> io::Result<()>;

    /// Has the poll tell of what waits at a socket.
    ///
    /// # Errors
    ///
    /// If the system does not watch it.
    fn watch(&self, registry: &Registry, socket: &UdpSocket, token: Token) -> io::Result<()>;

    /// Puts what waits at `socket` into `arena`, `at_most` so many, 1 to [`BATCH`]; what was there before is
    /// overwritten.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if nothing waits. Any other is about an earlier datagram, or about the socket.
    fn receive(
        &mut self,
        socket: &UdpSocket,
        arena: &mut Arena,
        at_most: usize,
    ) -> io::Result<Left>;

    /// Sends `datagrams`, at most [`MAX_SEGMENTS`] with [`MAX_SENT`] bytes in all. All but the last have the same
    /// length, the last may be shorter; only a single one may be empty. The result says how many were not sent.
    fn send(&mut self, socket: &UdpSocket, envelope: &Envelope, datagrams: &[IoSlice<'_>])
    -> usize;

    /// The next ICMP error about a datagram that `socket` sent.
    fn icmp_error(&mut self, socket: &UdpSocket) -> Option<IcmpError>;
}

impl Default for Arena {
    fn default() -> Self {
        Self {
            memory: vec![0; BATCH * SLOT + SPREAD].into_boxed_slice(),
            received: Vec::with_capacity(BATCH),
        }
    }
}

impl Arena {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets what was received.
    pub fn clear(&mut self) {
        self.received.clear();
    }

    /// Notes that `len` bytes are in the next slot. The ranges of what is noted are filled in here.
    pub fn push(
        &mut self,
        len: usize,
        stride: usize,
        from: SocketAddr,
        to: Option<IpAddr>,
        traffic_class: u8,
    ) {
        self.push_at(self.received.len(), len, stride, from, to, traffic_class);
    }

    /// As [`Self::push`], with the number of the slot.
    pub(super) fn push_at(
        &mut self,
        slot: usize,
        len: usize,
        stride: usize,
        from: SocketAddr,
        to: Option<IpAddr>,
        traffic_class: u8,
    ) {
        let start = slot * SLOT + LEAD;
        self.received.push(Received {
            range: start..start + len.min(MAX_RECEIVED),
            stride,
            from,
            to,
            traffic_class,
        });
    }

    /// How many were received.
    #[must_use]
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// Whether nothing was received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// What was received `index`th.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Received> {
        self.received.get(index)
    }

    /// The space of the slot that is written next, for one datagram.
    pub fn next_slot(&mut self) -> &mut [u8] {
        self.slot(self.received.len())
    }

    /// The space of a slot.
    pub(super) fn slot(&mut self, slot: usize) -> &mut [u8] {
        let start = slot * SLOT + LEAD;
        &mut self.memory[start..start + MAX_RECEIVED]
    }

    /// Where the datagrams of what was received `index`th are: as they came, without room around those in the middle.
    #[must_use]
    pub fn places(&self, index: usize) -> Places {
        self.received.get(index).map_or(Places::NONE, |received| {
            let len = received.range.len();
            Places::new(received.range.start, len, received.stride, 0)
        })
    }

    /// As [`Self::places`], with room around each: the datagrams of a run are copied to where they have it. What was
    /// spread before is overwritten.
    pub fn spread(&mut self, index: usize) -> Places {
        let Some(Received { range, stride, .. }) = self.received.get(index).cloned() else {
            return Places::NONE;
        };
        let count = range.len().div_ceil(stride.max(1));
        if !(2..=MAX_SEGMENTS).contains(&count) {
            return self.places(index);
        }
        let (received, spread) = self.memory.split_at_mut(BATCH * SLOT);
        let places = Places::new(BATCH * SLOT + HEADROOM, range.len(), stride, ROOMS);
        for (place, datagram) in places.clone().zip(received[range].chunks(stride)) {
            let start = place.range.start - BATCH * SLOT;
            spread[start..start + datagram.len()].copy_from_slice(datagram);
        }
        places
    }

    /// Everything, which ranges are of.
    #[must_use]
    pub fn memory(&self) -> &[u8] {
        &self.memory
    }

    /// Everything, to be overwritten.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

/// The distance of two spread datagrams, beyond their length.
const ROOMS: usize = HEADROOM + TAILROOM;

/// Where one datagram is, and how much of what is around it may be overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where in the arena.
    pub range: Range<usize>,
    /// Bytes before it.
    pub headroom: usize,
    /// Bytes behind it.
    pub tailroom: usize,
}

/// The places of datagrams that were received together.
#[derive(Clone, Debug)]
pub struct Places {
    next: usize,
    /// Bytes of datagrams from `next` on.
    left: usize,
    stride: usize,
    /// Bytes between two datagrams.
    gap: usize,
    is_first: bool,
}

impl Places {
    /// There are none.
    const NONE: Self = Self {
        next: 0,
        left: 0,
        stride: 0,
        gap: 0,
        is_first: false,
    };

    const fn new(start: usize, len: usize, stride: usize, gap: usize) -> Self {
        Self {
            next: start,
            left: len,
            stride,
            gap,
            is_first: true,
        }
    }
}

impl Iterator for Places {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        // a datagram may be empty
        if self.left == 0 && !self.is_first {
            return None;
        }
        let len = self.left.min(self.stride.max(1));
        let range = self.next..self.next + len;
        self.left -= len;
        let place = Place {
            headroom: if self.is_first || self.gap > 0 {
                HEADROOM
            } else {
                0
            },
            tailroom: if self.left == 0 || self.gap > 0 {
                TAILROOM
            } else {
                0
            },
            range,
        };
        self.next = place.range.end + self.gap;
        self.is_first = false;
        Some(place)
    }
}

/// Shows no bytes.
impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} datagrams", self.received.len())
    }
}

/// Shows no address.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// Shows no address.
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Envelope")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena_with(len: usize, stride: usize) -> Arena {
        let mut arena = Arena::new();
        for (at, byte) in arena.next_slot().iter_mut().take(len).enumerate() {
            *byte = at.to_le_bytes()[0];
        }
        arena.push(len, stride, SocketAddr::from(([127, 0, 0, 1], 1)), None, 0);
        arena
    }

    fn of(places: impl Iterator<Item = Place>) -> Vec<(Range<usize>, usize, usize)> {
        let first = LEAD;
        places
            .map(|place| {
                let range = place.range.start - first..place.range.end - first;
                (range, place.headroom, place.tailroom)
            })
            .collect()
    }

    #[test]
    fn what_was_received_as_one_is_taken_apart() {
        assert_eq!(
            of(arena_with(250, 100).places(0)),
            [
                (0..100, HEADROOM, 0),
                (100..200, 0, 0),
                (200..250, 0, TAILROOM)
            ]
        );
        let one = [(0..100, HEADROOM, TAILROOM)];
        assert_eq!(of(arena_with(100, 100).places(0)), one);
        assert_eq!(of(arena_with(100, 100).spread(0)), one);
        let empty = [(0..0, HEADROOM, TAILROOM)];
        assert_eq!(of(arena_with(0, 0).places(0)), empty);
        assert_eq!(of(arena_with(0, 0).spread(0)), empty);
    }

    #[test]
    fn a_spread_run_has_room_around_each_datagram() {
        for (len, stride) in [(250, 100), (MAX_RECEIVED, 1_024), (65_507, 1_200), (64, 1)] {
            let mut arena = arena_with(len, stride);
            let plain: Vec<Vec<u8>> = arena
                .places(0)
                .map(|place| arena.memory()[place.range].to_vec())
                .collect();
            let spread: Vec<Place> = arena.spread(0).collect();
            assert_eq!(spread.len(), plain.len());
            let mut end = 0;
            for (place, datagram) in spread.iter().zip(&plain) {
                assert_eq!(arena.memory()[place.range.clone()], **datagram);
                assert!(place.range.start - place.headroom >= end);
                end = place.range.end + place.tailroom;
                assert!(end <= arena.memory().len());
                assert_eq!((place.headroom, place.tailroom), (HEADROOM, TAILROOM));
            }
        }
    }
}
