//! Connections with peers (RFC 6062): made or accepted by the thread of the allocation, and handed to the thread of the
//! client's data connection, which may be another.
//!
//! It knows where such a connection is, and nothing of who may have it.

use std::{
    collections::HashMap,
    fmt,
    net::TcpStream,
    sync::{Mutex, MutexGuard, PoisonError},
};

use turn_relay_proto::{Link, Payer, RelayId, address::ConnectionId};

use super::{ready::Queued, stream::Stream};

/// All connections with peers that are there, of all threads.
#[derive(Default)]
pub struct PeerRegistry(Mutex<HashMap<ConnectionId, Entry>>);

/// One connection with a peer.
#[derive(Debug)]
pub struct Entry {
    /// The thread of the allocation, whose server named the connection.
    pub owner: usize,
    /// The relayed address.
    pub relay: RelayId,
    /// Where it is.
    pub place: Place,
}

/// Where a connection with a peer is.
#[derive(Debug)]
pub enum Place {
    /// Here, unread.
    Waiting(TcpStream),
    /// At the thread of that number.
    Joined(usize),
}

impl PeerRegistry {
    /// Enters a connection that waits to be joined.
    pub fn insert(
        &self,
        connection: ConnectionId,
        owner: usize,
        relay: RelayId,
        socket: TcpStream,
    ) {
        let entry = Entry {
            owner,
            relay,
            place: Place::Waiting(socket),
        };
        self.lock().insert(connection, entry);
    }

    /// Gives a waiting connection to a thread, once.
    pub fn join(&self, connection: ConnectionId, worker: usize) -> Option<TcpStream> {
        let mut entries = self.lock();
        let entry = entries.get_mut(&connection)?;
        match std::mem::replace(&mut entry.place, Place::Joined(worker)) {
            Place::Waiting(socket) => Some(socket),
            joined @ Place::Joined(_) => {
                entry.place = joined;
                None
            }
        }
    }

    /// Forgets a connection.
    pub fn remove(&self, connection: ConnectionId) -> Option<Entry> {
        self.lock().remove(&connection)
    }

    /// Forgets all connections of a relayed address.
    pub fn remove_all(&self, owner: usize, relay: RelayId) -> Vec<(ConnectionId, Entry)> {
        self.lock()
            .extract_if(|_, entry| entry.owner == owner && entry.relay == relay)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PeerRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerRegistry")
    }
}

/// The connections with peers, and with the HTTPS backend, that one thread has in its poll.
#[derive(Debug, Default)]
pub struct Peers {
    slots: Vec<Option<Box<Peer>>>,
    free: Vec<u32>,
}

/// One of them, or one with the HTTPS backend.
#[derive(Debug)]
pub struct Peer {
    /// How it is named; `None`: it is with the HTTPS backend, and no registry knows it.
    pub connection: Option<ConnectionId>,
    /// Bytes in and out, in clear.
    pub stream: Stream,
    /// What it does.
    pub stage: PeerStage,
    /// Who pays for its bytes once it is joined; `None`: nobody.
    pub payer: Option<Payer>,
    /// Whether there is a deadline at which the payer may have bandwidth again.
    pub waits: bool,
    /// Whether it waits to be read.
    pub queued: Queued,
}

/// What a connection with a peer does.
#[derive(Debug)]
pub enum PeerStage {
    /// It is being made, for that relayed address.
    Connecting(RelayId),
    /// It is being made, to the HTTPS backend.
    Reaching(Pipe),
    /// Its bytes are those of a client's connection.
    Joined(Pipe),
}

/// The way of the bytes between a client's connection and one with a peer.
#[derive(Clone, Copy, Debug)]
pub struct Pipe {
    /// The client's connection.
    pub client: Link,
    /// Whether the client has sent everything.
    pub client_ended: bool,
    /// Whether the peer has sent everything.
    pub peer_ended: bool,
    /// Whether the peer takes nothing any more, so that what the client sends is thrown away.
    pub is_deaf: bool,
}

impl Pipe {
    /// For that client's connection.
    #[must_use]
    pub const fn new(client: Link) -> Self {
        Self {
            client,
            client_ended: false,
            peer_ended: false,
            is_deaf: false,
        }
    }
}

impl Peers {
    /// Enters a connection. The result is its place.
    pub fn insert(&mut self, peer: Peer) -> Option<u32> {
        let slot = if let Some(slot) = self.free.pop() {
            slot
        } else {
            let slot = u32::try_from(self.slots.len()).ok()?;
            self.slots.push(None);
            slot
        };
        self.slots[slot as usize] = Some(Box::new(peer));
        Some(slot)
    }

    /// The connection at that place.
    pub fn at(&mut self, slot: u32) -> Option<&mut Peer> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// Takes a connection out; it is closed when it is dropped.
    pub fn remove(&mut self, slot: u32) -> Option<Box<Peer>> {
        let peer = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(peer)
    }

    /// The places of all connections for which `is_meant` holds.
    pub fn find(&self, is_meant: impl Fn(&Peer) -> bool) -> Vec<u32> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, peer)| peer.as_deref().is_some_and(&is_meant))
            .map(|(slot, _)| slot)
            .collect()
    }
}
