//! Connections to peers that wait for a ConnectionBind request (RFC 6062 §5.4), which may come on another thread.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::{address::ConnectionId, quota::UserId};

/// Which connections wait, and for whom (the hash of a whole username).
#[derive(Debug, Default)]
pub(crate) struct WaitingConnections(Mutex<HashMap<u32, UserId>>);

/// Why a connection is not joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotJoined {
    /// There is none of that ID, or it was joined or given up.
    Unknown,
    /// Somebody else's.
    OtherUser,
}

impl WaitingConnections {
    /// Enters a connection; `false` if the ID is taken.
    pub(crate) fn insert(&self, id: ConnectionId, user: UserId) -> bool {
        let mut waiting = self.lock();
        let free = !waiting.contains_key(&id.0);
        if free {
            waiting.insert(id.0, user);
        }
        free
    }

    /// Takes out a connection that is to be joined, once.
    pub(crate) fn take(&self, id: ConnectionId, user: UserId) -> Result<(), NotJoined> {
        let mut waiting = self.lock();
        match waiting.get(&id.0) {
            None => Err(NotJoined::Unknown),
            Some(owner) if *owner != user => Err(NotJoined::OtherUser),
            Some(_) => {
                waiting.remove(&id.0);
                Ok(())
            }
        }
    }

    /// Gives up a connection; `false` if it waits no longer.
    pub(crate) fn remove(&self, id: ConnectionId) -> bool {
        self.lock().remove(&id.0).is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, UserId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
