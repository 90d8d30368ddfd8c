//! Whether an app's configuration has been shown to fit its devices' tokens.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::outcome::Outcome;

/// What is known of an app's configuration.
///
/// A wrong `platform`, `topic`, `project_id` or `token_kind` makes a provider call every single token
/// bad. Rejecting them would make homeservers delete every pusher of the app within minutes, and only
/// the apps could make them anew; so the words that may mean either count against a token only once the
/// provider has taken a push of this app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No push was taken since the start or the last reload.
    Unproven,
    /// A push was taken: the configuration fits some token.
    Proven,
}

/// Keeps the standing of one app.
#[derive(Debug, Default)]
pub(super) struct Record(AtomicBool);

impl Record {
    pub(super) fn standing(&self) -> Standing {
        if self.0.load(Ordering::Relaxed) {
            Standing::Proven
        } else {
            Standing::Unproven
        }
    }

    pub(super) fn learn(&self, outcome: &Outcome) {
        if *outcome == Outcome::Delivered && self.standing() == Standing::Unproven {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Cause, Failure, Rejected, Retry};

    #[test]
    fn a_push_that_was_taken_proves_it_and_nothing_else() {
        let record = Record::default();
        record.learn(&Failure::new(Cause::Refused, "400", Retry::Never).into());
        record.learn(&Outcome::Rejected(Rejected::Unregistered));
        assert_eq!(record.standing(), Standing::Unproven);
        record.learn(&Outcome::Delivered);
        record.learn(&Outcome::Rejected(Rejected::Unregistered));
        assert_eq!(record.standing(), Standing::Proven);
    }
}
