//! Connections to peers (RFC 6062 §5) as far as servers of several threads have to agree on them: which names are taken, which connection waits for whom, and
//! which relayed transport addresses take connections.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    address::ConnectionId,
    quota::{Account, UserId},
};

/// All connections to peers that have a name. A name is taken until its connection is closed, so that no two connections ever have the same.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<HashMap<u32, State>>);

/// What a connection does.
#[derive(Debug)]
enum State {
    /// It is being made.
    Connecting,
    /// It waits for a ConnectionBind request (§5.4) of that user (the hash of a whole username), which may come on another thread. Its bytes go to that account.
    Waiting(UserId, Arc<Account>),
    /// The request came.
    Joined(Arc<Account>),
}

/// Why a connection is not joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotJoined {
    /// There is none of that ID, or it was joined or given up.
    Unknown,
    /// Somebody else's.
    OtherUser,
}

impl Connections {
    /// Takes a name for a connection that is to be made; `false` if another one has it.
    pub(crate) fn name(&self, id: ConnectionId) -> bool {
        let mut connections = self.lock();
        let free = !connections.contains_key(&id.0);
        if free {
            connections.insert(id.0, State::Connecting);
        }
        free
    }

    /// From now on a connection waits for a request of `user`; `account` is the one of its allocation.
    pub(crate) fn wait(&self, id: ConnectionId, user: UserId, account: Arc<Account>) {
        self.lock().insert(id.0, State::Waiting(user, account));
    }

    /// Joins a connection, once.
    pub(crate) fn join(&self, id: ConnectionId, user: UserId) -> Result<(), NotJoined> {
        let mut connections = self.lock();
        match connections.get_mut(&id.0) {
            Some(State::Waiting(owner, _)) if *owner != user => Err(NotJoined::OtherUser),
            Some(state @ State::Waiting(..)) => {
                if let State::Waiting(_, account) = std::mem::replace(state, State::Connecting) {
                    *state = State::Joined(account);
                }
                Ok(())
            }
            Some(State::Connecting | State::Joined(_)) | None => Err(NotJoined::Unknown),
        }
    }

    /// Who pays for the bytes of a connection that was joined.
    pub(crate) fn account(&self, id: ConnectionId) -> Option<Arc<Account>> {
        match self.lock().get(&id.0) {
            Some(State::Joined(account)) => Some(Arc::clone(account)),
            Some(State::Connecting | State::Waiting(..)) | None => None,
        }
    }

    /// Gives up a connection that waits; `false` if it waits no longer.
    pub(crate) fn give_up(&self, id: ConnectionId) -> bool {
        let mut connections = self.lock();
        let waits = matches!(connections.get(&id.0), Some(State::Waiting(..)));
        if waits {
            connections.remove(&id.0);
        }
        waits
    }

    /// A connection is closed, or was not made: its name is free.
    pub(crate) fn remove(&self, id: ConnectionId) {
        self.lock().remove(&id.0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Relayed transport addresses that take connections, as clients are told them: on the relay's own addresses these are peers, and nothing else is. `Debug` shows none.
#[derive(Default)]
pub(crate) struct Listening(Mutex<HashSet<SocketAddr>>);

impl Listening {
    pub(crate) fn insert(&self, relayed: SocketAddr) {
        self.lock().insert(relayed);
    }

    pub(crate) fn remove(&self, relayed: SocketAddr) {
        self.lock().remove(&relayed);
    }

    pub(crate) fn contains(&self, address: SocketAddr) -> bool {
        self.lock().contains(&address)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listening")
    }
}
