//! Pushes that say less than they could: counted, and explained in the log without naming anybody.

use std::{fmt, sync::Arc};

use prometheus_client::metrics::counter::Counter;
use shared::{clock::Clock, log_gate::LogGate};
use tracing::info;

use crate::sealed::{keys::Ignored, plaintext::LeftOut};

/// What one app's pushes lack, and where that is counted.
pub struct Shortfalls {
    app: Arc<str>,
    counters: Counters,
    clock: Clock,
    ignored_keys_log: LogGate,
    left_out_log: LogGate,
}

/// One counter for each label.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// [`Ignored`] with the label `version`.
    pub unknown_version: Counter,
    /// [`Ignored`] with the label `malformed`.
    pub malformed_keys: Counter,
    /// In the order of [`LeftOut::ALL`].
    pub left_out: [Counter; 4],
}

impl Shortfalls {
    /// Nothing was lacking yet.
    #[must_use]
    pub fn new(app: Arc<str>, counters: Counters, clock: Clock) -> Self {
        let now = clock.now();
        Self {
            app,
            counters,
            clock,
            ignored_keys_log: LogGate::new(now),
            left_out_log: LogGate::new(now),
        }
    }

    /// A device's keys cannot be used.
    pub(super) fn ignored_keys(&self, reason: Ignored) {
        match reason {
            Ignored::Version => self.counters.unknown_version.inc(),
            Ignored::NoObject
            | Ignored::NoVersion
            | Ignored::HalfOfPair
            | Ignored::P256dh
            | Ignored::Auth
            | Ignored::OffCurve
            | Ignored::Secret => self.counters.malformed_keys.inc(),
        };
        if let Some(held_back) = self.ignored_keys_log.pass(self.clock.now()) {
            info!(
                app = %self.app,
                reason = reason.label(),
                detail = %reason,
                more_since_last_line = held_back,
                "a device's keys cannot be used: its pushes go out without tags and without contents"
            );
        }
    }

    /// A sealed notification was too large for the largest size.
    pub(super) fn left_out(&self, left_out: LeftOut) {
        let [data, content, event, ids] = &self.counters.left_out;
        match left_out {
            LeftOut::Data => data.inc(),
            LeftOut::Content => content.inc(),
            LeftOut::Event => event.inc(),
            LeftOut::Ids => ids.inc(),
        };
        if let Some(held_back) = self.left_out_log.pass(self.clock.now()) {
            info!(
                app = %self.app,
                left_out = left_out.label(),
                more_since_last_line = held_back,
                "a notification does not fit into 2048 bytes: it is sealed without what is largest and least missed"
            );
        }
    }
}

impl fmt::Debug for Shortfalls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Shortfalls({})", self.app)
    }
}
