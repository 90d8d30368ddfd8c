//! What has to happen at a certain time.
//!
//! Deadlines are not withdrawn: whoever is told of one looks whether it still holds. So whoever moves one later enters it
//! anew when it comes, and there are few more entries than connections.

use std::{cmp::Reverse, collections::BinaryHeap};

use turn_relay_proto::Time;

/// Deadlines, the earliest first.
#[derive(Debug)]
pub struct Deadlines<T>(BinaryHeap<Reverse<(Time, T)>>);

impl<T: Ord> Default for Deadlines<T> {
    fn default() -> Self {
        Self(BinaryHeap::new())
    }
}

impl<T: Ord> Deadlines<T> {
    /// Enters one.
    pub fn push(&mut self, at: Time, what: T) {
        self.0.push(Reverse((at, what)));
    }

    /// When the next one comes.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out one that has come.
    pub fn pop(&mut self, now: Time) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, what))| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_is_taken_out_in_its_order() {
        let mut deadlines = Deadlines::default();
        for at in [30, 10, 20] {
            deadlines.push(Time::from_nanos(at), at);
        }
        assert_eq!(deadlines.next(), Some(Time::from_nanos(10)));
        assert_eq!(deadlines.pop(Time::from_nanos(9)), None);
        assert_eq!(deadlines.pop(Time::from_nanos(20)), Some(10));
        assert_eq!(deadlines.pop(Time::from_nanos(20)), Some(20));
        assert_eq!(deadlines.pop(Time::from_nanos(20)), None);
    }
}
