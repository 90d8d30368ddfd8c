//! Data for streams that another thread has: two clients of the relay that reach each other may be on two threads.
//!
//! Writers and the owner share one lock for as long as it takes to copy the bytes. It knows the numbers of streams, and nothing
//! of what the bytes are.

use std::{
    io::{self, IoSlice},
    sync::{Mutex, PoisonError},
};

use mio::Waker;
use turn_relay_proto::Link;

/// Bytes that may wait for a thread; what is more is dropped, as a network would.
const CAPACITY: usize = 1024 * 1024;

/// Bytes that may wait for one stream, so that one that is sent much does not take the space of all: a quarter.
const SHARE: usize = CAPACITY / 4;

/// Streams are counted in so many groups, by their numbers: what one of them is sent is missing to the few others of its group.
const GROUPS: usize = 256;

/// Bytes before each message: its stream and its length.
const HEADER_LEN: usize = 12;

/// Where other threads put messages for one thread's streams.
#[derive(Debug)]
pub struct Mailbox {
    letters: Mutex<Letters>,
    waker: Waker,
}

/// What waits.
#[derive(Debug)]
struct Letters {
    bytes: Vec<u8>,
    of_groups: [usize; GROUPS],
}

impl Mailbox {
    /// An empty one; its owner is woken when something is put in.
    #[must_use]
    pub const fn new(waker: Waker) -> Self {
        Self {
            letters: Mutex::new(Letters {
                bytes: Vec::new(),
                of_groups: [0; GROUPS],
            }),
            waker,
        }
    }

    /// Wakes the owner.
    pub fn wake(&self) -> io::Result<()> {
        self.waker.wake()
    }

    /// Puts messages for a stream in. The result says for how many there was no space.
    pub fn put(&self, stream: Link, messages: &[IoSlice<'_>]) -> usize {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let Letters { bytes, of_groups } = &mut *letters;
        let was_empty = bytes.is_empty();
        let of_group = &mut of_groups[group(stream)];
        let mut lost = 0;
        for message in messages {
            let more = HEADER_LEN + message.len();
            let fits = bytes.len() + more <= CAPACITY && *of_group + more <= SHARE;
            let Some(len) = u32::try_from(message.len()).ok().filter(|_| fits) else {
                lost += 1;
                continue;
            };
            *of_group += more;
            bytes.extend_from_slice(&stream.0.to_ne_bytes());
            bytes.extend_from_slice(&len.to_ne_bytes());
            bytes.extend_from_slice(message);
        }
        let wakes = was_empty && !bytes.is_empty();
        drop(letters);
        if wakes {
            // if this fails, what is in comes with the next wake-up
            let _ = self.waker.wake();
        }
        lost
    }

    /// Takes everything out, into a buffer that was [read](letters) before.
    pub fn take(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut letters.bytes, buffer);
        letters.of_groups = [0; GROUPS];
    }
}

/// Numbers of streams begin with their place, which is low.
const fn group(stream: Link) -> usize {
    let [.., low] = stream.0.to_be_bytes();
    low as usize
}

/// The messages that [`Mailbox::take`] took out.
pub fn letters(mut buffer: &[u8]) -> impl Iterator<Item = (Link, &[u8])> {
    std::iter::from_fn(move || {
        let (stream, rest) = buffer.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_ne_bytes(*len)).ok()?;
        let (message, rest) = rest.split_at_checked(len)?;
        buffer = rest;
        Some((Link(u64::from_ne_bytes(*stream)), message))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    fn mailbox() -> (Poll, Mailbox) {
        let poll = Poll::new().expect("possible");
        let waker = Waker::new(poll.registry(), Token(0)).expect("possible");
        (poll, Mailbox::new(waker))
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        let (mut poll, mailbox) = mailbox();
        let messages = [IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"2")];
        assert_eq!(mailbox.put(Link(7), &messages), 0);
        assert_eq!(mailbox.put(Link(8), &[IoSlice::new(b"three")]), 0);
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::from_secs(10)))
            .expect("possible");
        assert!(!events.is_empty(), "the owner is woken");
        let mut buffer = b"what was read before".to_vec();
        mailbox.take(&mut buffer);
        let all: Vec<_> = letters(&buffer).collect();
        assert_eq!(
            all,
            [
                (Link(7), b"one".as_slice()),
                (Link(7), b""),
                (Link(7), b"2"),
                (Link(8), b"three")
            ]
        );
        mailbox.take(&mut buffer);
        assert_eq!(letters(&buffer).count(), 0);
    }

    #[test]
    fn a_full_mailbox_drops_what_is_new() {
        let (_poll, mailbox) = mailbox();
        let big = vec![0; SHARE - HEADER_LEN];
        for stream in 1..=6 {
            let lost = mailbox.put(Link(stream), &[IoSlice::new(&big)]);
            assert_eq!(lost, usize::from(stream > 4), "{stream}");
        }
        assert_eq!(mailbox.put(Link(5), &[IoSlice::new(b"x")]), 1);
        let mut buffer = Vec::new();
        mailbox.take(&mut buffer);
        assert_eq!(letters(&buffer).count(), 4);
    }

    #[test]
    fn one_stream_does_not_take_the_space_of_all() {
        let (_poll, mailbox) = mailbox();
        let message = [0; 1_000];
        let messages = [IoSlice::new(&message); 32];
        let put = || {
            (0..100)
                .map(|_| mailbox.put(Link(1), &messages))
                .sum::<usize>()
        };
        let fit = SHARE / (HEADER_LEN + message.len());
        assert_eq!(put(), 3_200 - fit);
        assert_eq!(mailbox.put(Link(2), &messages), 0, "another stream's fit");
        let mut buffer = Vec::new();
        mailbox.take(&mut buffer);
        assert_eq!(letters(&buffer).count(), fit + 32);
        assert_eq!(put(), 3_200 - fit, "what was taken counts no more");
    }
}
