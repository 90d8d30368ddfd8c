//! When a thread lets packets gather, as a network card does that moderates its interrupts.
//!
//! To wake up costs about a third of what it takes to relay a packet that comes alone. A thread with little to do is woken
//! by each packet all the same, since nobody gains by its waiting. Beyond [`BUSY`] it looks at its sockets no more often
//! than every [`PAUSE`], and finds several packets each time, of which those with one destination go out together. A
//! thread that has its hands full is later than that anyway and never pauses.

use std::time::Duration;

use turn_relay_proto::Time;

/// As many packets in [`WINDOW`] make a thread busy: 40,000 a second.
const BUSY: usize = 400;

/// What packets are counted over. Long enough that chance makes no difference.
const WINDOW: Duration = Duration::from_millis(10);

/// The least time between two looks of a busy thread's. The kernel may add as much to it (`timer_slack_ns` in proc(5)).
const PAUSE: Duration = Duration::from_micros(350);

/// How busy a thread is.
#[derive(Debug, Default)]
pub(super) struct Moderation {
    since: Time,
    packets: usize,
    is_busy: bool,
}

impl Moderation {
    /// The thread has served so many packets, after a look at `now`.
    pub(super) fn count(&mut self, packets: usize, now: Time) {
        self.packets += packets;
        let time = now.since(self.since);
        if time < WINDOW {
            return;
        }
        self.is_busy = self.packets as u128 * WINDOW.as_nanos() >= BUSY as u128 * time.as_nanos();
        self.since = now;
        self.packets = 0;
    }

    /// For how long not to look: the last look was at `last`.
    pub(super) fn pause(&self, last: Time, now: Time) -> Option<Duration> {
        let rest = PAUSE.checked_sub(now.since(last))?;
        (self.is_busy && !rest.is_zero()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_micros(100);

    /// After as many looks as a second has room for, with `packets` at each `every`th.
    fn after_a_second(packets: usize, every: usize) -> (Moderation, Time) {
        let mut moderation = Moderation::default();
        let mut now = Time::default();
        for look in 0..10_000 {
            now = now + LOOK;
            moderation.count(if look % every == 0 { packets } else { 0 }, now);
        }
        (moderation, now)
    }

    #[test]
    fn a_thread_with_little_to_do_does_not_pause() {
        let (moderation, now) = after_a_second(3, 1);
        assert_eq!(moderation.pause(now, now), None);
        let (moderation, now) = after_a_second(39, 10);
        assert_eq!(moderation.pause(now, now), None);
    }

    #[test]
    fn a_busy_thread_pauses_for_what_is_left() {
        let (moderation, now) = after_a_second(4, 1);
        assert_eq!(moderation.pause(now, now), Some(PAUSE));
        assert_eq!(moderation.pause(now, now + PAUSE / 5), Some(PAUSE / 5 * 4));
        assert_eq!(moderation.pause(now, now + PAUSE), None);
        assert_eq!(moderation.pause(now, now + 2 * PAUSE), None);
    }

    #[test]
    fn after_a_silence_a_thread_is_not_busy() {
        let (mut moderation, now) = after_a_second(4, 1);
        let later = now + Duration::from_secs(1);
        moderation.count(399, later);
        assert_eq!(moderation.pause(later, later), None);
    }
}
