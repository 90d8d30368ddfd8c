//! What Apple's answer means.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::{
    outcome::{Cause, Failure, Outcome, Rejected, Retry},
    provider::{detail::detail, standing::Standing},
    retry_after::retry_after,
};

/// The outcome of one request that Apple answered.
///
/// Source: *Handling notification responses from APNs* (Apple Developer Documentation). `pushkey_ts` is
/// the device's, in seconds since 1970; `now` is the wall clock.
///
/// | status | reason | outcome | tried again by the gateway |
/// |---|---|---|---|
/// | 200 | | delivered | |
/// | 400 | `BadDeviceToken`, app proven | rejected: `invalid_token` | |
/// | 400 | `DeviceTokenNotForTopic`, app proven | rejected: `wrong_topic` | |
/// | 400 | `BadDeviceToken`, `DeviceTokenNotForTopic`, app not proven | failed: `refused` | never |
/// | 400 | `TopicDisallowed`, `BadCertificate*` | failed: `credentials` | never |
/// | 400 | any other | failed: `refused` | never |
/// | 403 | `ExpiredProviderToken` | failed: `credentials` | at once, if the provider token may be renewed, else never |
/// | 403 | any other | failed: `credentials` | never |
/// | 410 | `Unregistered`, `ExpiredToken`, `timestamp` absent or not before `pushkey_ts` | rejected: `unregistered` | |
/// | 410 | `Unregistered`, `ExpiredToken`, `timestamp` before `pushkey_ts` | failed: `refused` | never |
/// | 410 | any other | failed: `refused` | never |
/// | 413 | any | failed: `too_large` | never |
/// | 429 | `TooManyRequests`, `TooManyProviderTokenUpdates`, any other | failed: `throttled` | never |
/// | 5xx | any | failed: `provider_error` | after `Retry-After`, else after back-off |
/// | other | any | failed: `refused` | never |
///
/// - **Proven.** `BadDeviceToken` is also what every token gets at the wrong `platform`, and
///   `DeviceTokenNotForTopic` with the wrong `topic`: see [`Standing`]. Later tries of the homeserver
///   either get through, once the configuration is mended, or find the app proven and are rejected.
///   `TopicDisallowed` is about certificate and topic, never about the token.
/// - **410 and `pushkey_ts`.** `timestamp` is when Apple last knew the token to be dead. A client that
///   registered its pusher after that says that the token lives, and rejecting would make the homeserver
///   delete a pusher that is newer than the news. So it is a failure; as the same answer is certain
///   within seconds, the gateway leaves trying again to the homeserver, whose back-off reaches hours: by
///   then either the token works or Apple's `timestamp` is the later one. A `pushkey_ts` that lies more
///   than a day in the future (some servers mix up seconds and milliseconds) says nothing.
/// - **429** is about this one device, or about the provider token; Apple allows a later try after
///   `TooManyRequests`, which the homeserver's is.
/// - The body is read leniently: without a reason the status alone decides.
pub(super) fn outcome(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    pushkey_ts: Option<i64>,
    standing: Standing,
    now: SystemTime,
) -> Outcome {
    if status.is_success() {
        return Outcome::Delivered;
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let reason = body.get("reason").and_then(Value::as_str);
    let failure = |cause, retry| Failure::new(cause, detail(status, reason), retry).into();
    let suspect = |reason| match standing {
        Standing::Proven => Outcome::Rejected(reason),
        Standing::Unproven => failure(Cause::Refused, Retry::Never),
    };
    match (status.as_u16(), reason) {
        (400, Some("BadDeviceToken")) => suspect(Rejected::InvalidToken),
        (400, Some("DeviceTokenNotForTopic")) => suspect(Rejected::WrongTopic),
        (400, Some("TopicDisallowed" | "BadCertificate" | "BadCertificateEnvironment")) => {
            failure(Cause::Credentials, Retry::Never)
        }
        (403, Some("ExpiredProviderToken")) => failure(Cause::Credentials, Retry::Now),
        (403, _) => failure(Cause::Credentials, Retry::Never),
        (410, Some("Unregistered" | "ExpiredToken"))
            if !registered_since(&body, pushkey_ts, now) =>
        {
            Outcome::Rejected(Rejected::Unregistered)
        }
        (413, _) => failure(Cause::TooLarge, Retry::Never),
        (429, _) => failure(Cause::Throttled, Retry::Never),
        (500..=599, _) => failure(
            Cause::ProviderError,
            retry_after(headers, now).map_or(Retry::Backoff, Retry::After),
        ),
        _ => failure(Cause::Refused, Retry::Never),
    }
}

/// Whether the client registered its pusher after the time at which Apple knew the token to be dead.
fn registered_since(body: &Value, pushkey_ts: Option<i64>, now: SystemTime) -> bool {
    const DAY: Duration = Duration::from_hours(24);

    let Some(registered) = pushkey_ts.and_then(|seconds| u64::try_from(seconds).ok()) else {
        return false;
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    if registered > (now + DAY).as_secs() {
        return false;
    }
    body.get("timestamp")
        .and_then(Value::as_u64)
        .is_some_and(|milliseconds| milliseconds / 1000 < registered)
}

#[cfg(test)]
mod tests {
    use http::header::RETRY_AFTER;

    use proptest::prelude::*;

    use super::*;
    use crate::provider::answers::{any_answer, assert_harmless};

    /// 2026-01-01T00:00:00Z
    const NOW: u64 = 1_767_225_600;
    const NOW_I64: i64 = NOW.cast_signed();

    fn answer(status: u16, body: &str, pushkey_ts: Option<i64>) -> Outcome {
        answer_to(Standing::Proven, status, body, pushkey_ts)
    }

    fn answer_to(standing: Standing, status: u16, body: &str, pushkey_ts: Option<i64>) -> Outcome {
        outcome(
            StatusCode::from_u16(status).expect("a status"),
            &HeaderMap::new(),
            body.as_bytes(),
            pushkey_ts,
            standing,
            UNIX_EPOCH + Duration::from_secs(NOW),
        )
    }

    fn reason(status: u16, reason: &str) -> Outcome {
        answer(status, &format!(r#"{{"reason":"{reason}"}}"#), None)
    }

    fn failed(cause: Cause, detail: &str, retry: Retry) -> Outcome {
        Failure::new(cause, detail, retry).into()
    }

    #[test]
    fn ok_is_delivered_whatever_the_body_says() {
        assert_eq!(answer(200, "", None), Outcome::Delivered);
        assert_eq!(reason(200, "BadDeviceToken"), Outcome::Delivered);
    }

    #[test]
    fn tokens_that_can_never_work_are_rejected() {
        assert_eq!(
            reason(400, "BadDeviceToken"),
            Outcome::Rejected(Rejected::InvalidToken)
        );
        assert_eq!(
            reason(400, "DeviceTokenNotForTopic"),
            Outcome::Rejected(Rejected::WrongTopic)
        );
        for standing in [Standing::Proven, Standing::Unproven] {
            for word in ["Unregistered", "ExpiredToken"] {
                let body = format!(r#"{{"reason":"{word}"}}"#);
                assert_eq!(
                    answer_to(standing, 410, &body, None),
                    Outcome::Rejected(Rejected::Unregistered),
                    "{word}"
                );
            }
        }
    }

    #[test]
    fn what_a_wrong_configuration_gives_every_token_rejects_none_until_one_push_was_taken() {
        for word in ["BadDeviceToken", "DeviceTokenNotForTopic"] {
            let body = format!(r#"{{"reason":"{word}"}}"#);
            assert_eq!(
                answer_to(Standing::Unproven, 400, &body, None),
                failed(Cause::Refused, &format!("400 {word}"), Retry::Never)
            );
        }
    }

    #[test]
    fn a_410_for_another_reason_or_for_none_rejects_nobody() {
        assert_eq!(
            reason(410, "SomethingNew"),
            failed(Cause::Refused, "410 SomethingNew", Retry::Never)
        );
        assert_eq!(
            answer(410, "", None),
            failed(Cause::Refused, "410", Retry::Never)
        );
    }

    #[test]
    fn the_reason_counts_only_with_its_status() {
        for status in [403, 404, 429, 500] {
            let outcome = reason(status, "BadDeviceToken");
            assert!(
                matches!(outcome, Outcome::Failed(_)),
                "{status}: {outcome:?}"
            );
        }
    }

    #[test]
    fn a_bad_request_of_ours_is_refused() {
        for word in [
            "BadCollapseId",
            "BadExpirationDate",
            "BadMessageId",
            "BadPriority",
            "BadTopic",
            "DuplicateHeaders",
            "IdleTimeout",
            "InvalidPushType",
            "MissingDeviceToken",
            "MissingTopic",
            "PayloadEmpty",
        ] {
            assert_eq!(
                reason(400, word),
                failed(Cause::Refused, &format!("400 {word}"), Retry::Never)
            );
        }
        assert_eq!(
            reason(404, "BadPath"),
            failed(Cause::Refused, "404 BadPath", Retry::Never)
        );
        assert_eq!(
            reason(405, "MethodNotAllowed"),
            failed(Cause::Refused, "405 MethodNotAllowed", Retry::Never)
        );
    }

    #[test]
    fn an_expired_provider_token_is_renewed_and_the_push_tried_again() {
        assert_eq!(
            reason(403, "ExpiredProviderToken"),
            failed(Cause::Credentials, "403 ExpiredProviderToken", Retry::Now)
        );
    }

    #[test]
    fn other_trouble_with_credentials_is_for_the_operator() {
        for word in [
            "BadCertificate",
            "BadCertificateEnvironment",
            "BadEnvironmentKeyIdInToken",
            "Forbidden",
            "InvalidProviderToken",
            "MissingProviderToken",
            "UnrelatedKeyIdInToken",
        ] {
            assert_eq!(
                reason(403, word),
                failed(Cause::Credentials, &format!("403 {word}"), Retry::Never)
            );
        }
        for word in [
            "BadCertificate",
            "BadCertificateEnvironment",
            "TopicDisallowed",
        ] {
            assert_eq!(
                reason(400, word),
                failed(Cause::Credentials, &format!("400 {word}"), Retry::Never)
            );
        }
        assert_eq!(
            answer(403, "", None),
            failed(Cause::Credentials, "403", Retry::Never)
        );
    }

    #[test]
    fn too_large_and_too_many_are_not_tried_again_here() {
        assert_eq!(
            reason(413, "PayloadTooLarge"),
            failed(Cause::TooLarge, "413 PayloadTooLarge", Retry::Never)
        );
        for word in ["TooManyRequests", "TooManyProviderTokenUpdates"] {
            assert_eq!(
                reason(429, word),
                failed(Cause::Throttled, &format!("429 {word}"), Retry::Never)
            );
        }
    }

    #[test]
    fn apples_own_trouble_is_tried_again() {
        for (status, word) in [
            (500, "InternalServerError"),
            (503, "ServiceUnavailable"),
            (503, "Shutdown"),
        ] {
            assert_eq!(
                reason(status, word),
                failed(
                    Cause::ProviderError,
                    &format!("{status} {word}"),
                    Retry::Backoff
                )
            );
        }
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().expect("a value"));
        assert_eq!(
            outcome(
                StatusCode::SERVICE_UNAVAILABLE,
                &headers,
                b"",
                None,
                Standing::Proven,
                UNIX_EPOCH
            ),
            failed(
                Cause::ProviderError,
                "503",
                Retry::After(Duration::from_secs(7))
            )
        );
    }

    #[test]
    fn a_token_registered_after_apple_found_it_dead_is_not_rejected() {
        let gone = |timestamp: u64, pushkey_ts| {
            answer(
                410,
                &format!(r#"{{"reason":"Unregistered","timestamp":{timestamp}}}"#),
                pushkey_ts,
            )
        };
        let refused = failed(Cause::Refused, "410 Unregistered", Retry::Never);
        let rejected = Outcome::Rejected(Rejected::Unregistered);

        assert_eq!(gone((NOW - 60) * 1000, Some(NOW_I64)), refused);
        assert_eq!(gone((NOW - 1) * 1000 + 999, Some(NOW_I64)), refused);
        assert_eq!(gone(NOW * 1000, Some(NOW_I64)), rejected);
        assert_eq!(gone((NOW + 60) * 1000, Some(NOW_I64)), rejected);
        assert_eq!(gone((NOW - 60) * 1000, None), rejected);
        assert_eq!(gone((NOW - 60) * 1000, Some(0)), rejected);
        assert_eq!(gone((NOW - 60) * 1000, Some(-1)), rejected);
    }

    #[test]
    fn a_pushkey_ts_in_milliseconds_says_nothing() {
        let body = format!(r#"{{"reason":"Unregistered","timestamp":{}}}"#, NOW * 1000);
        for odd in [NOW_I64 * 1000, i64::MAX] {
            assert_eq!(
                answer(410, &body, Some(odd)),
                Outcome::Rejected(Rejected::Unregistered)
            );
        }
    }

    #[test]
    fn an_odd_timestamp_counts_as_absent() {
        for timestamp in [r#""soon""#, "null", "-5", "1e400", "{}"] {
            assert_eq!(
                answer(
                    410,
                    &format!(r#"{{"reason":"Unregistered","timestamp":{timestamp}}}"#),
                    Some(NOW_I64)
                ),
                Outcome::Rejected(Rejected::Unregistered),
                "{timestamp}"
            );
        }
    }

    #[test]
    fn odd_bodies_leave_the_status_to_decide() {
        let deep = "[".repeat(100_000);
        for body in [
            "<html>",
            "null",
            "[]",
            r#"{"reason":7}"#,
            "\u{feff}{}",
            &deep,
        ] {
            assert_eq!(
                answer(400, body, None),
                failed(Cause::Refused, "400", Retry::Never)
            );
        }
        assert_eq!(
            reason(400, "see device 0a1b2c"),
            failed(Cause::Refused, "400 other", Retry::Never)
        );
        assert_eq!(
            answer(302, "", None),
            failed(Cause::Refused, "302", Retry::Never)
        );
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(
            (status, headers, body) in any_answer(),
            pushkey_ts in proptest::option::of(any::<i64>()),
            seconds in 0..u64::MAX >> 1,
        ) {
            let now = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
            assert_harmless(&outcome(status, &headers, &body, pushkey_ts, Standing::Proven, now));
        }
    }
}
