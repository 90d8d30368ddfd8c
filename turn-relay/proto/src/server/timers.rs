//! When which allocation has to be looked at.

use std::collections::BTreeSet;

use crate::time::Time;

/// One entry for each allocation.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Time, u32)>);

impl Timers {
    pub(super) fn set(&mut self, slot: u32, at: Time) {
        self.0.insert((at, slot));
    }

    pub(super) fn unset(&mut self, slot: u32, at: Time) {
        self.0.remove(&(at, slot));
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out one entry whose time has come.
    pub(super) fn pop(&mut self, now: Time) -> Option<u32> {
        self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.pop_first().map(|(_, slot)| slot)
    }
}
