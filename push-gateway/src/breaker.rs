//! A circuit breaker: while a provider is down, pushes to it fail at once instead of queueing up, and
//! single ones probe for its way back.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Over how long attempts are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// The window moves in steps of this.
const STEP: Duration = Duration::from_secs(1);
const STEPS: usize = 10;
/// So many failures within the window, and most of what was tried, are an outage.
const FAILURES: u32 = 20;
/// How long the breaker stays open before the first probe; doubled with each probe that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One provider's breaker.
#[derive(Debug)]
pub struct Breaker(Mutex<Inner>);

/// Whether pushes are let through. Closed set: its label is a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// All are.
    Closed,
    /// None is.
    Open,
    /// One is, to see whether the provider is back.
    HalfOpen,
}

/// What an attempt showed of the provider as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answered, whatever it said of the single push.
    Up,
    /// It did not, or said that it has trouble itself.
    Down,
}

/// What recording an attempt changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The breaker opened, or a probe failed and it stays open.
    Opened {
        /// Until the next probe.
        pause: Duration,
    },
    /// A probe succeeded and the breaker closed.
    Closed,
}

/// The right to try once. Must be handed back to [`Breaker::record`]; a probe that is not (its request
/// was given up) frees its place when dropped.
#[derive(Debug)]
#[must_use]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
    /// Which state of the breaker it is from.
    epoch: u64,
    recorded: bool,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Raised when the breaker opens or closes: what was sent before says nothing of what is now.
    epoch: u64,
    steps: [Step; STEPS],
}

#[derive(Debug)]
enum State {
    Closed,
    Open {
        until: Instant,
        pause: Duration,
        probing: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Step {
    start: Instant,
    tried: u32,
    failed: u32,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Inner {
            state: State::Closed,
            epoch: 0,
            steps: [Step {
                start: now,
                tried: 0,
                failed: 0,
            }; STEPS],
        }))
    }

    /// Asks to try once.
    #[must_use]
    pub fn admit(&self, now: Instant) -> Option<Permit<'_>> {
        let mut inner = self.inner();
        let probe = match &mut inner.state {
            State::Closed => false,
            State::Open { until, probing, .. } if now >= *until && !*probing => {
                *probing = true;
                true
            }
            State::Open { .. } => return None,
        };
        Some(Permit {
            breaker: self,
            probe,
            epoch: inner.epoch,
            recorded: false,
        })
    }

    /// Records what an attempt showed.
    #[must_use = "the caller logs and counts the change"]
    pub fn record(mut permit: Permit<'_>, health: Health, now: Instant) -> Option<Change> {
        permit.recorded = true;
        let mut inner = permit.breaker.inner();
        if permit.epoch != inner.epoch {
            return None;
        }
        inner.count(health, now);
        match &mut inner.state {
            State::Closed => {
                let (tried, failed) = inner.within_window(now);
                if failed >= FAILURES && failed.saturating_mul(2) > tried {
                    inner.state = State::Open {
                        until: now + FIRST_PAUSE,
                        pause: FIRST_PAUSE,
                        probing: false,
                    };
                    inner.epoch += 1;
                    return Some(Change::Opened { pause: FIRST_PAUSE });
                }
                None
            }
            // An attempt from before the breaker opened shows nothing new.
            State::Open { .. } if !permit.probe => None,
            State::Open {
                until,
                pause,
                probing,
            } => match health {
                Health::Up => {
                    inner.state = State::Closed;
                    inner.epoch += 1;
                    inner.steps = [Step {
                        start: now,
                        tried: 0,
                        failed: 0,
                    }; STEPS];
                    Some(Change::Closed)
                }
                Health::Down => {
                    *pause = (*pause * 2).min(LONGEST_PAUSE);
                    *until = now + *pause;
                    *probing = false;
                    Some(Change::Opened { pause: *pause })
                }
            },
        }
    }

    /// The state at `now`.
    #[must_use]
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.inner().state {
            State::Closed => BreakerState::Closed,
            State::Open { until, probing, .. } if probing || now >= until => BreakerState::HalfOpen,
            State::Open { .. } => BreakerState::Open,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn count(&mut self, health: Health, now: Instant) {
        let newest = &mut self.steps[0];
        if now.saturating_duration_since(newest.start) >= STEP {
            self.steps.rotate_right(1);
            self.steps[0] = Step {
                start: now,
                tried: 0,
                failed: 0,
            };
        }
        let newest = &mut self.steps[0];
        newest.tried = newest.tried.saturating_add(1);
        if health == Health::Down {
            newest.failed = newest.failed.saturating_add(1);
        }
    }

    fn within_window(&self, now: Instant) -> (u32, u32) {
        self.steps
            .iter()
            .filter(|step| now.saturating_duration_since(step.start) < WINDOW)
            .fold((0, 0), |(tried, failed), step| {
                (
                    tried.saturating_add(step.tried),
                    failed.saturating_add(step.failed),
                )
            })
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe
            && !self.recorded
            && let State::Open { probing, .. } = &mut self.breaker.inner().state
        {
            *probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::Clock;

    use super::*;

    fn attempt(breaker: &Breaker, health: Health, now: Instant) -> Option<Change> {
        let permit = breaker.admit(now).expect("admitted");
        Breaker::record(permit, health, now)
    }

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::new(now);
        for _ in 0..FAILURES - 1 {
            assert_eq!(attempt(&breaker, Health::Down, now), None);
        }
        assert_eq!(
            attempt(&breaker, Health::Down, now),
            Some(Change::Opened { pause: FIRST_PAUSE })
        );
        breaker
    }

    #[test]
    fn twenty_failures_within_ten_seconds_open_it() {
        let now = Clock::system().now();
        let breaker = opened(now);
        assert!(breaker.admit(now).is_none());
        assert_eq!(breaker.state(now), BreakerState::Open);
    }

    #[test]
    fn failures_spread_over_a_longer_time_do_not() {
        let now = Clock::system().now();
        let breaker = Breaker::new(now);
        for second in 0..200 {
            assert_eq!(
                attempt(&breaker, Health::Down, now + Duration::from_secs(second)),
                None
            );
        }
    }

    #[test]
    fn failures_that_are_not_most_of_what_was_tried_do_not() {
        let now = Clock::system().now();
        let breaker = Breaker::new(now);
        for _ in 0..1000 {
            assert_eq!(attempt(&breaker, Health::Up, now), None);
            assert_eq!(attempt(&breaker, Health::Down, now), None);
        }
    }

    #[test]
    fn one_probe_at_a_time_finds_the_way_back() {
        let now = Clock::system().now();
        let breaker = opened(now);
        let later = now + FIRST_PAUSE;
        let probe = breaker.admit(later).expect("a probe");
        assert!(breaker.admit(later).is_none(), "only one");
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        assert_eq!(
            Breaker::record(probe, Health::Down, later),
            Some(Change::Opened {
                pause: FIRST_PAUSE * 2
            })
        );
        assert!(
            breaker.admit(later + FIRST_PAUSE).is_none(),
            "the pause doubled"
        );
        let probe = breaker.admit(later + FIRST_PAUSE * 2).expect("a probe");
        assert_eq!(
            Breaker::record(probe, Health::Up, later + FIRST_PAUSE * 2),
            Some(Change::Closed)
        );
        assert_eq!(
            attempt(&breaker, Health::Down, later + FIRST_PAUSE * 2),
            None,
            "counting starts anew"
        );
    }

    #[test]
    fn failures_of_before_do_not_open_it_again() {
        let now = Clock::system().now();
        let breaker = Breaker::new(now);
        let hanging: Vec<_> = (0..100)
            .map(|_| breaker.admit(now).expect("closed"))
            .collect();
        for _ in 0..FAILURES {
            let _ = attempt(&breaker, Health::Down, now);
        }
        let later = now + FIRST_PAUSE;
        assert_eq!(attempt(&breaker, Health::Up, later), Some(Change::Closed));
        for permit in hanging {
            assert_eq!(Breaker::record(permit, Health::Down, later), None);
        }
        assert_eq!(breaker.state(later), BreakerState::Closed);
    }

    #[test]
    fn a_probe_that_is_given_up_frees_its_place() {
        let now = Clock::system().now();
        let breaker = opened(now);
        drop(breaker.admit(now + FIRST_PAUSE).expect("a probe"));
        assert!(breaker.admit(now + FIRST_PAUSE).is_some());
    }

    #[test]
    fn the_pause_has_a_bound() {
        let mut now = Clock::system().now();
        let breaker = opened(now);
        for _ in 0..20 {
            now += LONGEST_PAUSE;
            let probe = breaker.admit(now).expect("a probe after the longest pause");
            let _ = Breaker::record(probe, Health::Down, now);
        }
    }
}
