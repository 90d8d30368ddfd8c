//! Time as an argument.
//!
//! State that depends on time takes an [`Instant`] or a [`SystemTime`] as a parameter. Where a
//! service has to ask for the time itself it asks a [`Clock`], so that a test can hold it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Where a service reads the time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Mutex<(Instant, SystemTime)>>),
}

impl Clock {
    /// The clocks of the operating system.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`] moves it; it starts at `unix`.
    #[must_use]
    pub fn manual(unix: SystemTime) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new((monotonic(), unix)))))
    }

    /// The monotonic time: for durations, deadlines and windows.
    #[must_use]
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::System => monotonic(),
            Source::Manual(state) => state.lock().unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// The wall clock: for what other machines compare with theirs (tokens, expiry dates).
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        match &self.0 {
            Source::System => wall(),
            Source::Manual(state) => state.lock().unwrap_or_else(PoisonError::into_inner).1,
        }
    }

    /// Whole seconds since 1970 on the wall clock; 0 before 1970.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        self.wall()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }

    /// Moves a manual clock forward; does nothing to the system's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(state) = &self.0 {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 += by;
            state.1 += by;
        }
    }

    /// Sets the wall clock of a manual clock, also backwards; its monotonic time stays.
    pub fn set_wall(&self, unix: SystemTime) {
        if let Source::Manual(state) = &self.0 {
            state.lock().unwrap_or_else(PoisonError::into_inner).1 = unix;
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the system's clock"
)]
fn monotonic() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the system's clock"
)]
fn wall() -> SystemTime {
    SystemTime::now()
}
