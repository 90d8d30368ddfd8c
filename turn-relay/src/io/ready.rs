//! Whose turn it is: sockets that have something to read, each served a batch at a time, so that none starves another.
//!
//! It knows how the poll names sockets, and nothing of what they are for.

use std::collections::VecDeque;

use mio::Token;
use turn_relay_proto::address::Family;

use super::datagrams::BATCH;

/// What the poll tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another thread has something to say.
    Waker,
    /// A UDP listener, in the order of the settings.
    UdpListener(u32),
    /// A TCP or TLS listener, in the order of the settings.
    TcpListener(u32),
    /// A relayed transport address.
    Relay(u32, Family),
    /// A client's connection, by its place.
    Client(u32),
    /// A connection with a peer, by its place.
    Peer(u32),
}

const KINDS: usize = 8;

impl Source {
    /// As the poll names it.
    #[must_use]
    pub const fn token(self) -> Token {
        let (kind, index) = match self {
            Self::Waker => (0, 0),
            Self::UdpListener(index) => (1, index),
            Self::TcpListener(index) => (2, index),
            Self::Relay(slot, Family::V4) => (3, slot),
            Self::Relay(slot, Family::V6) => (4, slot),
            Self::Client(slot) => (5, slot),
            Self::Peer(slot) => (6, slot),
        };
        Token(index as usize * KINDS + kind)
    }

    /// What has that name.
    #[must_use]
    pub fn from_token(token: Token) -> Option<Self> {
        let index = u32::try_from(token.0 / KINDS).ok()?;
        Some(match token.0 % KINDS {
            0 => Self::Waker,
            1 => Self::UdpListener(index),
            2 => Self::TcpListener(index),
            3 => Self::Relay(index, Family::V4),
            4 => Self::Relay(index, Family::V6),
            5 => Self::Client(index),
            6 => Self::Peer(index),
            _ => return None,
        })
    }
}

/// Whether a source is in the queue, so that it is there once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queued {
    /// It is.
    Yes,
    /// It is not.
    #[default]
    No,
}

/// Sources that wait to be served.
///
/// UDP listeners, of which each stands for all its clients, take turns with everything else: after at most
/// [`BATCH`] packets of other sources comes a batch of a listener.
#[derive(Debug, Default)]
pub struct Ready {
    listeners: VecDeque<Source>,
    others: VecDeque<Source>,
    /// Packets of others since a listener was served.
    of_others: usize,
}

impl Ready {
    /// Enters a source, unless it is there.
    pub fn push(&mut self, source: Source, queued: &mut Queued) {
        if *queued == Queued::No {
            *queued = Queued::Yes;
            match source {
                Source::UdpListener(_) => self.listeners.push_back(source),
                Source::Waker
                | Source::TcpListener(_)
                | Source::Relay(..)
                | Source::Client(_)
                | Source::Peer(_) => self.others.push_back(source),
            }
        }
    }

    /// Who is served next. Whoever takes it has to note that it is not queued any more.
    pub fn pop(&mut self) -> Option<Source> {
        if self.of_others < BATCH
            && let Some(source) = self.others.pop_front()
        {
            return Some(source);
        }
        self.of_others = 0;
        self.listeners
            .pop_front()
            .or_else(|| self.others.pop_front())
    }

    /// That many packets were taken from a source that is not a UDP listener.
    pub fn count(&mut self, packets: usize) {
        self.of_others += packets.max(1);
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_source() {
        for source in [
            Source::Waker,
            Source::UdpListener(0),
            Source::TcpListener(65_535),
            Source::Relay(7, Family::V4),
            Source::Relay(7, Family::V6),
            Source::Client(u32::MAX >> 4),
            Source::Peer(1),
        ] {
            assert_eq!(Source::from_token(source.token()), Some(source));
        }
    }

    #[test]
    fn a_source_waits_once() {
        let mut ready = Ready::default();
        let mut queued = Queued::No;
        ready.push(Source::Client(1), &mut queued);
        ready.push(Source::Client(1), &mut queued);
        assert_eq!(ready.pop(), Some(Source::Client(1)));
        assert!(ready.is_empty());
    }

    #[test]
    fn neither_a_flood_on_relays_nor_one_on_a_listener_starves_the_other() {
        let mut ready = Ready::default();
        let relay = Source::Relay(1, Family::V4);
        let listener = Source::UdpListener(0);
        let served: Vec<_> = (0..40)
            .map(|_| {
                // both always have more
                let (mut one, mut other) = (Queued::No, Queued::No);
                if !ready.others.contains(&relay) {
                    ready.push(relay, &mut one);
                }
                if !ready.listeners.contains(&listener) {
                    ready.push(listener, &mut other);
                }
                let source = ready.pop().expect("both wait");
                if source == relay {
                    ready.count(BATCH);
                }
                source
            })
            .collect();
        let listeners = served.iter().filter(|source| **source == listener).count();
        assert_eq!(listeners, 20, "{served:?}");
    }
}
