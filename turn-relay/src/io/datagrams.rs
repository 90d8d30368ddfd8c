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

use socket2::Socket;
use turn_relay_proto::{
    IcmpError,
    packet::{HEADROOM, TAILROOM},
};

/// The most datagrams that one call receives. Measured with `examples/datagram_costs.rs`.
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

    /// Puts what waits at `socket` into `arena`, up to [`BATCH`]; what was there before is overwritten. Fewer than
    /// [`BATCH`] means that nothing waited any more.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if nothing waits. Any other is about an earlier datagram, or about the socket.
    fn receive(&mut self, socket: &UdpSocket, arena: &mut Arena) -> io::Result<()>;

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
            memory: vec![0; BATCH * SLOT].into_boxed_slice(),
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
