//! Waiting.

use std::{
    thread,
    time::{Duration, Instant},
};

use shared::clock::Clock;

/// How long a test waits for what has to come. Never reached on a machine that is not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How long a test waits for what must not come. A slow machine lets it pass where it should fail, never the other
/// way round.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

pub(crate) fn now() -> Instant {
    Clock::system().now()
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    Clock::system().unix_seconds()
}

/// Asks again and again until the answer is yes; false if it stays no.
pub(crate) fn eventually(mut question: impl FnMut() -> bool) -> bool {
    let deadline = now() + PATIENCE;
    loop {
        if question() {
            return true;
        }
        if now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
