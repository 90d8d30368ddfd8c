//! What becomes of a push whose token the provider refused.

use crate::outcome::{Cause, Failure, Outcome, Retry};

/// Asks for another token where the outcome calls for one.
///
/// The outcome tables say "credentials, at once" of a token that may only have been too old. That stands
/// if `renew` has another one; if it does not, trying again would get the same answer.
pub(crate) fn renew_if_asked(outcome: Outcome, renew: impl FnOnce() -> bool) -> Outcome {
    let Outcome::Failed(
        mut failure @ Failure {
            cause: Cause::Credentials,
            retry: Retry::Now,
            ..
        },
    ) = outcome
    else {
        return outcome;
    };
    if !renew() {
        failure.retry = Retry::Never;
    }
    failure.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(cause: Cause, retry: Retry) -> Outcome {
        Failure::new(cause, "403 ExpiredProviderToken", retry).into()
    }

    #[test]
    fn a_push_is_tried_again_with_another_token_only() {
        let asked = failed(Cause::Credentials, Retry::Now);
        assert_eq!(renew_if_asked(asked.clone(), || true), asked);
        assert_eq!(
            renew_if_asked(asked, || false),
            failed(Cause::Credentials, Retry::Never)
        );
    }

    #[test]
    fn no_other_outcome_asks_for_a_token() {
        for outcome in [
            Outcome::Delivered,
            failed(Cause::Credentials, Retry::Never),
            failed(Cause::Connect, Retry::Now),
        ] {
            let unchanged = renew_if_asked(outcome.clone(), || panic!("nothing to renew"));
            assert_eq!(unchanged, outcome);
        }
    }
}
