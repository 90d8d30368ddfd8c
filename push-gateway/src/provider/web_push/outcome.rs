//! What a push service's answer means.

use std::time::SystemTime;

use http::{HeaderMap, StatusCode};

use crate::{
    outcome::{Cause, Failure, Outcome, Rejected, Retry},
    provider::detail::detail,
    retry_after::retry_after,
};

/// The outcome of one request that a push service answered.
///
/// Source: RFC 8030 §5, §7.3 and §8.4, RFC 8292 §4.2. `now` is the wall clock.
///
/// | status | outcome | tried again by the gateway |
/// |---|---|---|
/// | 2xx | delivered | |
/// | 404, 410 | rejected: `unregistered` | |
/// | 408 | failed: `refused` | after back-off |
/// | 413 | failed: `too_large` | never |
/// | 429 | failed: `throttled` | after `Retry-After`; without one, never |
/// | 5xx | failed: `provider_error` | after `Retry-After`, else after back-off |
/// | 3xx, other | failed: `refused` | never |
///
/// - **401, 403** say that the push service does not take the VAPID token, or that the subscription was
///   made for another application server's key. No later push with this key reaches that subscription.
///   Still the pushkey stays: the day that an operator configures the wrong key is not the day on which
///   everybody's pusher should be deleted. And it is `refused`, not `credentials`: which push service a
///   device names is a stranger's choice, and one that answers 401 says nothing of the gateway.
/// - **Redirects** are not followed: a push service has no use for them, and whoever probes the
///   gateway's network does.
/// - **The body** is not read: it is a stranger's text, and no push service agrees with another on it.
pub(in crate::provider) fn outcome(
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Outcome {
    let failure = |cause, retry| Failure::new(cause, detail(status, None), retry).into();
    let asked_or = |otherwise| retry_after(headers, now).map_or(otherwise, Retry::After);
    match status.as_u16() {
        200..=299 => Outcome::Delivered,
        404 | 410 => Outcome::Rejected(Rejected::Unregistered),
        408 => failure(Cause::Refused, Retry::Backoff),
        413 => failure(Cause::TooLarge, Retry::Never),
        429 => failure(Cause::Throttled, asked_or(Retry::Never)),
        500..=599 => failure(Cause::ProviderError, asked_or(Retry::Backoff)),
        _ => failure(Cause::Refused, Retry::Never),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::header::RETRY_AFTER;

    use proptest::prelude::*;

    use super::*;
    use crate::provider::answers::{any_answer, assert_harmless};

    #[test]
    fn the_table() {
        let failed = |cause, status: u16, retry| {
            Outcome::from(Failure::new(cause, status.to_string(), retry))
        };
        for status in [200, 201, 202, 204] {
            assert_eq!(answer(status, None), Outcome::Delivered);
        }
        for status in [404, 410] {
            assert_eq!(
                answer(status, None),
                Outcome::Rejected(Rejected::Unregistered)
            );
        }
        for status in [
            300, 301, 307, 400, 401, 402, 403, 405, 406, 411, 418, 431, 499, 600, 999,
        ] {
            let expected = failed(Cause::Refused, status, Retry::Never);
            assert_eq!(answer(status, None), expected);
        }
        assert_eq!(
            answer(408, None),
            failed(Cause::Refused, 408, Retry::Backoff)
        );
        assert_eq!(
            answer(413, None),
            failed(Cause::TooLarge, 413, Retry::Never)
        );
        assert_eq!(
            answer(429, None),
            failed(Cause::Throttled, 429, Retry::Never)
        );
        for status in [500, 502, 503, 504, 507] {
            let expected = failed(Cause::ProviderError, status, Retry::Backoff);
            assert_eq!(answer(status, None), expected);
        }
    }

    #[test]
    fn retry_after_is_kept_in_either_form() {
        let minute = Retry::After(Duration::from_mins(1));
        for value in ["60", "Thu, 01 Jan 1970 00:01:00 GMT"] {
            for (status, cause) in [(429, Cause::Throttled), (503, Cause::ProviderError)] {
                let expected = Failure::new(cause, status.to_string(), minute);
                assert_eq!(answer(status, Some(value)), expected.into());
            }
        }
    }

    #[test]
    fn retry_after_changes_no_other_answer() {
        for status in [201, 307, 401, 404, 413] {
            assert_eq!(answer(status, Some("60")), answer(status, None));
        }
    }

    fn answer(status: u16, retry_after: Option<&'static str>) -> Outcome {
        let headers = retry_after
            .map(|value| (RETRY_AFTER, http::HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        outcome(StatusCode::from_u16(status).unwrap(), &headers, UNIX_EPOCH)
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd((status, headers, _) in any_answer()) {
            assert_harmless(&outcome(status, &headers, UNIX_EPOCH + Duration::from_secs(784_111_777)));
        }
    }
}
