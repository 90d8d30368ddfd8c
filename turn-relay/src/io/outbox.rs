//! Messages that go to one destination, one behind the other, collected so that one system call sends them all.
//!
//! Only what came by one receive is collected, and it is sent at its end: nothing waits for more to come. It knows lengths and
//! destinations, and nothing of sockets.

use std::ops::Range;

use turn_relay_proto::{Link, address::Family, effect::Purpose};

use super::datagrams::{Envelope, MAX_SEGMENTS, MAX_SENT};

/// Where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A client, from a UDP listener.
    Listener(u16, Envelope),
    /// A peer, from a relay socket of that place.
    Relay(u32, Family, Envelope),
    /// A client's stream.
    Stream(Link, Purpose),
    /// A client's DTLS session, with DSCP and ECN.
    #[cfg(feature = "dtls")]
    Session(Link, u8),
}

/// The open collection. Messages are ranges of the thread's arena.
#[derive(Debug)]
pub struct Outbox {
    destination: Option<Destination>,
    messages: Vec<Range<usize>>,
    bytes: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            destination: None,
            messages: Vec::with_capacity(MAX_SEGMENTS),
            bytes: 0,
        }
    }
}

impl Outbox {
    /// Adds a message, if it can be sent with those that are there; else these have to be taken first.
    pub fn push(&mut self, destination: Destination, message: &Range<usize>) -> Result<(), Full> {
        if self.messages.is_empty() {
            self.destination = Some(destination);
        } else if self.destination != Some(destination) || !self.has_space(&destination, message) {
            return Err(Full);
        }
        self.bytes += message.len();
        self.messages.push(message.clone());
        Ok(())
    }

    fn has_space(&self, destination: &Destination, message: &Range<usize>) -> bool {
        if self.messages.len() >= MAX_SEGMENTS || self.bytes + message.len() > MAX_SENT {
            return false;
        }
        match destination {
            Destination::Stream(..) => true,
            #[cfg(feature = "dtls")]
            Destination::Session(..) => true,
            // all of one length but for the last, which may be shorter but not empty
            Destination::Listener(..) | Destination::Relay(..) => {
                let length = self.messages.first().map_or(0, ExactSizeIterator::len);
                let last = self.messages.last().map_or(0, ExactSizeIterator::len);
                last == length && !message.is_empty() && message.len() <= length
            }
        }
    }

    /// What was collected, and for whom. It has to be [cleared](Self::clear) after that.
    #[must_use]
    pub fn collected(&self) -> Option<(Destination, &[Range<usize>])> {
        self.destination
            .map(|destination| (destination, self.messages.as_slice()))
    }

    /// Forgets what was collected.
    pub fn clear(&mut self) {
        self.destination = None;
        self.messages.clear();
        self.bytes = 0;
    }
}

/// What is there has to be sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn to(port: u16) -> Destination {
        Destination::Listener(
            0,
            Envelope {
                to: SocketAddr::from(([127, 0, 0, 1], port)),
                from: None,
                traffic_class: 0,
                dont_fragment: false,
            },
        )
    }

    /// How many messages of those lengths, all to one destination, go together.
    fn together(lengths: &[usize], destination: Destination) -> usize {
        let mut outbox = Outbox::default();
        lengths
            .iter()
            .take_while(|length| outbox.push(destination, &(0..**length)).is_ok())
            .count()
    }

    #[test]
    fn datagrams_of_one_length_go_together_with_a_shorter_last_one() {
        assert_eq!(together(&[100, 100, 100], to(1)), 3);
        assert_eq!(together(&[100, 100, 60, 60], to(1)), 3);
        assert_eq!(together(&[100, 101], to(1)), 1);
    }

    #[test]
    fn empty_datagrams_go_alone() {
        assert_eq!(together(&[0, 0], to(1)), 1);
        assert_eq!(together(&[100, 0], to(1)), 1);
        assert_eq!(together(&[0, 100], to(1)), 1);
    }

    #[test]
    fn no_more_go_together_than_a_system_call_takes() {
        assert_eq!(together(&[10; 100], to(1)), MAX_SEGMENTS);
        assert_eq!(together(&[1_200; 100], to(1)), MAX_SENT / 1_200);
    }

    #[test]
    fn messages_on_a_stream_go_together_whatever_their_lengths() {
        let stream = Destination::Stream(Link(1), Purpose::Relayed);
        assert_eq!(together(&[4, 1_000, 8, 2_000], stream), 4);
    }

    #[test]
    fn another_destination_waits_until_the_first_is_sent() {
        let mut outbox = Outbox::default();
        outbox.push(to(1), &(0..10)).expect("empty");
        assert_eq!(outbox.push(to(2), &(10..20)), Err(Full));
        assert_eq!(
            outbox.collected().map(|(_, messages)| messages.len()),
            Some(1)
        );
        outbox.clear();
        outbox.push(to(2), &(10..20)).expect("empty again");
    }
}
