//! The sockets behind relayed transport addresses, found by the number that the core gives an allocation.
//!
//! It knows which socket belongs to which number, and nothing of who sends to it or whom it may send to.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::AsRawFd as _,
};

use mio::{Interest, Registry, unix::SourceFd};
use socket2::{Protocol, Socket, Type};
use turn_relay_proto::{RelayId, address::Family, effect::RelayKind};

use super::{
    datagrams::{Appetite, Datagrams, Role},
    listeners::new_socket,
    ready::{Queued, Source},
};

/// Bytes that may wait at a relayed address in each direction, as far as the system allows: some 200 packets, as a burst of
/// video brings them.
const BUFFER: usize = 512 * 1024;

/// Connections of peers that may wait at a relayed address.
const BACKLOG: i32 = 32;

/// All relay sockets of one thread.
#[derive(Debug, Default)]
pub struct Relays {
    slots: Vec<[Option<Relay>; 2]>,
}

/// One relayed transport address. There are thousands, so it is small: what is received goes into the thread's one
/// arena.
#[derive(Debug)]
pub struct Relay {
    /// The socket.
    pub socket: RelaySocket,
    /// Whether it waits to be read.
    pub queued: Queued,
    /// For how much it is asked.
    pub appetite: Appetite,
    generation: u32,
}

/// What is bound to a relayed transport address.
#[derive(Debug)]
pub enum RelaySocket {
    /// For datagrams.
    Udp(UdpSocket),
    /// For connections, RFC 6062.
    Tcp(TcpListener),
}

impl Relays {
    /// Binds a socket and has it watched.
    ///
    /// # Errors
    ///
    /// Why the system does not bind it.
    pub fn open(
        &mut self,
        id: RelayId,
        address: SocketAddr,
        kind: RelayKind,
        datagrams: &impl Datagrams,
        registry: &Registry,
    ) -> io::Result<()> {
        let token = Source::Relay(id.slot, id.family).token();
        let open = || -> io::Result<RelaySocket> {
            match kind {
                RelayKind::Udp => {
                    let socket = udp(address, datagrams)?.into();
                    datagrams.watch(registry, &socket, token)?;
                    Ok(RelaySocket::Udp(socket))
                }
                RelayKind::Tcp => {
                    let socket = tcp(address)?;
                    let fd = socket.as_raw_fd();
                    registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
                    Ok(RelaySocket::Tcp(socket.into()))
                }
            }
        };
        let socket = open()?;
        let slot = id.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, Default::default);
        }
        self.slots[slot][family_index(id.family)] = Some(Relay {
            socket,
            queued: Queued::No,
            appetite: Appetite::default(),
            generation: id.generation,
        });
        Ok(())
    }

    /// Closes a socket; it is not watched any more then.
    pub fn close(&mut self, id: RelayId) {
        if self.get(id).is_some() {
            self.slots[id.slot as usize][family_index(id.family)] = None;
        }
    }

    /// The socket of that name, if it was not closed.
    #[must_use]
    pub fn get(&self, id: RelayId) -> Option<&Relay> {
        self.slots
            .get(id.slot as usize)?
            .get(family_index(id.family))?
            .as_ref()
            .filter(|relay| relay.generation == id.generation)
    }

    /// The socket that now has that place, and its name.
    pub fn at(&mut self, slot: u32, family: Family) -> Option<(RelayId, &mut Relay)> {
        let relay = self
            .slots
            .get_mut(slot as usize)?
            .get_mut(family_index(family))?
            .as_mut()?;
        let id = RelayId {
            slot,
            generation: relay.generation,
            family,
        };
        Some((id, relay))
    }
}

fn udp(address: SocketAddr, datagrams: &impl Datagrams) -> io::Result<Socket> {
    let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
    datagrams.prepare(&socket, Role::Relay)?;
    // less has to do if the system does not give that much
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Shares its address with the connections that are made from it.
fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

const fn family_index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}
