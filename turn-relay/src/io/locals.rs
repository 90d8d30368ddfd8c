//! The relay's ends of clients' datagram 5-tuples: a number for each pair of listener and local address, the same on all threads.
//!
//! A listener that is bound to all addresses has as many local addresses as datagrams come to. Threads look numbers up in
//! a copy of their own, and take the lock only for what is not in it yet.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use turn_relay_proto::Link;

/// More local addresses than a host has. A host to which whole networks are routed could be made to remember each of their addresses.
const MAX_LOCALS: usize = 4_096;

/// A listener's end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Which listener, in the order of the settings.
    pub listener: u16,
    /// The address that clients sent to; `None` if the listener is bound to one.
    pub address: Option<IpAddr>,
}

/// What all threads know. Entries are never removed.
#[derive(Debug, Default)]
pub struct SharedLocals(Mutex<Vec<Local>>);

/// What one thread knows.
#[derive(Debug)]
pub struct Locals {
    shared: Arc<SharedLocals>,
    known: Vec<Local>,
    /// The last one that was looked for: most datagrams come to the address that the one before came to.
    last: usize,
}

impl Locals {
    /// Knows what the others know.
    #[must_use]
    pub fn new(shared: Arc<SharedLocals>) -> Self {
        let mut locals = Self {
            shared,
            known: Vec::new(),
            last: 0,
        };
        locals.learn();
        locals
    }

    /// The number of an end; `None` if there are too many.
    pub fn link(&mut self, local: Local) -> Option<Link> {
        if self.known.get(self.last) == Some(&local) {
            return Some(as_link(self.last));
        }
        self.last = self.position(local).or_else(|| self.enter(local))?;
        Some(as_link(self.last))
    }

    /// The end that has the number.
    pub fn get(&mut self, link: Link) -> Option<Local> {
        let index = usize::try_from(link.0).ok()?;
        if index >= self.known.len() {
            self.learn();
        }
        self.known.get(index).copied()
    }

    fn position(&self, local: Local) -> Option<usize> {
        self.known.iter().position(|known| *known == local)
    }

    /// Makes a number, unless another thread has made one.
    fn enter(&mut self, local: Local) -> Option<usize> {
        {
            let mut shared = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !shared.contains(&local) && shared.len() < MAX_LOCALS {
                shared.push(local);
            }
        }
        self.learn();
        self.position(local)
    }

    fn learn(&mut self) {
        let shared = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.known.extend_from_slice(&shared[self.known.len()..]);
    }
}

fn as_link(index: usize) -> Link {
    Link(index as u64)
}

/// Shows no address.
impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "listener {}", self.listener)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn local(listener: u16, last: u8) -> Local {
        Local {
            listener,
            address: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))),
        }
    }

    #[test]
    fn two_threads_number_an_end_alike() {
        let shared = Arc::new(SharedLocals::default());
        let mut one = Locals::new(shared.clone());
        let mut other = Locals::new(shared);
        let first = one.link(local(0, 1)).expect("there is space");
        let second = other.link(local(0, 2)).expect("there is space");
        assert_ne!(first, second);
        assert_eq!(one.link(local(0, 2)), Some(second));
        assert_eq!(other.link(local(0, 1)), Some(first));
        assert_ne!(other.link(local(1, 1)), Some(first));
    }

    #[test]
    fn a_thread_knows_the_end_that_another_numbered() {
        let shared = Arc::new(SharedLocals::default());
        let mut one = Locals::new(shared.clone());
        let mut other = Locals::new(shared);
        let link = one.link(local(3, 9)).expect("there is space");
        assert_eq!(other.get(link), Some(local(3, 9)));
        assert_eq!(other.get(Link(7)), None);
    }

    #[test]
    fn addresses_beyond_what_a_host_has_are_refused_and_the_others_stay() {
        let mut locals = Locals::new(Arc::new(SharedLocals::default()));
        let first = locals.link(local(0, 1));
        for listener in 1..=u16::try_from(MAX_LOCALS).expect("fits") {
            locals.link(local(listener, 1));
        }
        assert_eq!(locals.link(local(0, 2)), None);
        assert_eq!(locals.link(local(0, 1)), first);
    }
}
