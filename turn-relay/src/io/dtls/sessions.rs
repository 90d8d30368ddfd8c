//! The DTLS sessions of one thread, found by the client's address and by the number that the core names them by.

use std::{collections::HashMap, net::SocketAddr};

use turn_relay_proto::Link;

use super::Session;
use crate::io::connections::session_link;

/// The most sessions of one thread. Each takes 10 kB while it is idle, and 9 kB before it is open.
const MAX_SESSIONS: usize = 1 << 15;

/// All sessions of one thread.
#[derive(Debug, Default)]
pub struct Sessions {
    worker: usize,
    /// Sessions that there were.
    count: u64,
    slots: Vec<Option<Box<Session>>>,
    free: Vec<u32>,
    by_client: HashMap<(SocketAddr, Link), u32>,
}

impl Sessions {
    /// None yet. `worker` is the number of the thread.
    #[must_use]
    pub fn new(worker: usize) -> Self {
        Self {
            worker,
            ..Self::default()
        }
    }

    /// Enters a session, whose number is made by `make`; `None` if there are too many, or if `make` has none. There must not be one of the same
    /// client's with the same local address.
    pub fn insert(&mut self, make: impl FnOnce(Link) -> Option<Session>) -> Option<u32> {
        if self.by_client.len() >= MAX_SESSIONS {
            return None;
        }
        let slot = match self.free.last() {
            Some(slot) => *slot,
            None => u32::try_from(self.slots.len()).ok()?,
        };
        let session = make(session_link(self.worker, self.count, slot))?;
        self.count += 1;
        if self.free.pop().is_none() {
            self.slots.push(None);
        }
        self.by_client.insert((session.client, session.local), slot);
        self.slots[slot as usize] = Some(Box::new(session));
        Some(slot)
    }

    /// The place of the client's session.
    #[must_use]
    pub fn of_client(&self, client: SocketAddr, local: Link) -> Option<u32> {
        self.by_client.get(&(client, local)).copied()
    }

    /// The session at that place.
    pub fn at(&mut self, slot: u32) -> Option<&mut Session> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// The place of the session of that name, if it has not ended.
    #[must_use]
    pub fn slot(&self, link: Link) -> Option<u32> {
        let slot = super::super::connections::slot(link);
        let session = self.slots.get(slot as usize)?.as_ref()?;
        (session.link == link).then_some(slot)
    }

    /// Takes a session out.
    pub fn remove(&mut self, slot: u32) -> Option<Box<Session>> {
        let session = self.slots.get_mut(slot as usize)?.take()?;
        self.by_client.remove(&(session.client, session.local));
        self.free.push(slot);
        Some(session)
    }

    /// The places of all sessions.
    #[must_use]
    pub fn taken(&self) -> Vec<u32> {
        self.by_client.values().copied().collect()
    }
}
