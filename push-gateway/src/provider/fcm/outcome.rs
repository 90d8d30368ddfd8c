//! What Google's answer means.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::{
    outcome::{Cause, Failure, Outcome, Rejected, Retry},
    provider::{detail::detail, standing::Standing},
    retry_after::retry_after,
};

/// How long to wait after a 429 without `Retry-After`, as Google asks for.
const QUOTA_DELAY: Duration = Duration::from_mins(1);

/// The outcome of one request that Google answered.
///
/// Source: *FCM error codes* and *`ErrorCode`* (Firebase documentation), *Scale up FCM traffic* for the
/// delays. The code is `errorCode` of the `google.firebase.fcm.v1.FcmError` among `error.details`, else
/// `error.status`; `now` is the wall clock.
///
/// | status | code | outcome | tried again by the gateway |
/// |---|---|---|---|
/// | 200 | | delivered | |
/// | 400 | `INVALID_ARGUMENT` that names the registration token, app proven | rejected: `invalid_token` | |
/// | 400 | any other | failed: `refused` | never |
/// | 401 | `THIRD_PARTY_AUTH_ERROR` | failed: `refused` | never |
/// | 401 | any other | failed: `credentials` | at once, if the access token may be fetched anew, else never |
/// | 403 | `SENDER_ID_MISMATCH`, app proven | rejected: `wrong_topic` | |
/// | 403 | `SENDER_ID_MISMATCH`, app not proven | failed: `refused` | never |
/// | 403 | any other | failed: `credentials` | never |
/// | 404 | `UNREGISTERED` | rejected: `unregistered` | |
/// | 404 | any other | failed: `credentials` | never |
/// | 413 | any | failed: `too_large` | never |
/// | 429 | `QUOTA_EXCEEDED`, any other | failed: `throttled` | after `Retry-After`, else after 60 s |
/// | 503 | `UNAVAILABLE`, any other | failed: `provider_error` | after `Retry-After`, else after back-off |
/// | 500, other 5xx | `INTERNAL`, any other | failed: `provider_error` | after `Retry-After`, else after back-off |
/// | other | any | failed: `refused` | never |
///
/// - **400 that names the token**: a field violation at `message.token` or `message.fid`, or the message
///   "The registration token is not a valid FCM registration token". Google answers so for tokens that
///   never were any and gives no code of its own; every other `INVALID_ARGUMENT` is about the payload
///   and must not cost the user their pusher. With the wrong `token_kind` every token gets it: until the
///   app is proven (see [`Standing`]) it is a failure.
/// - **`SENDER_ID_MISMATCH`**: the token was made for another Firebase project. Google: "If you switch
///   to a different sender, the existing registration tokens won't work." No later try can succeed, so
///   the homeserver is told, as Sygnal does for the same error of the legacy API; but the other project
///   may be the service account's, so not until the app is proven.
/// - **404 without `UNREGISTERED`** says that the URL names nothing: a wrong project ID or endpoint.
///   That is the operator's to mend; rejecting here would delete every pusher of the app at once.
/// - **`THIRD_PARTY_AUTH_ERROR`**: the APNs key or the Web Push key that the Firebase project holds is
///   bad; a new access token changes nothing. The gateway's own credentials are in order, and so are the
///   pushes to all other platforms of the project.
/// - The body is read leniently: without a code the status alone decides.
pub(super) fn outcome(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    standing: Standing,
    now: SystemTime,
) -> Outcome {
    if status.is_success() {
        return Outcome::Delivered;
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    let code = fcm_code(error);
    let reason = code.or_else(|| error["status"].as_str());
    let failure = |cause, retry| Failure::new(cause, detail(status, reason), retry).into();
    let suspect = |reason| match standing {
        Standing::Proven => Outcome::Rejected(reason),
        Standing::Unproven => failure(Cause::Refused, Retry::Never),
    };
    match (status.as_u16(), code) {
        (400, _) if names_the_token(error) => suspect(Rejected::InvalidToken),
        (401, Some("THIRD_PARTY_AUTH_ERROR")) => failure(Cause::Refused, Retry::Never),
        (401, _) => failure(Cause::Credentials, Retry::Now),
        (403, Some("SENDER_ID_MISMATCH")) => suspect(Rejected::WrongTopic),
        (404, Some("UNREGISTERED")) => Outcome::Rejected(Rejected::Unregistered),
        (403 | 404, _) => failure(Cause::Credentials, Retry::Never),
        (413, _) => failure(Cause::TooLarge, Retry::Never),
        (429, _) => failure(
            Cause::Throttled,
            Retry::After(retry_after(headers, now).unwrap_or(QUOTA_DELAY)),
        ),
        (500..=599, _) => failure(
            Cause::ProviderError,
            retry_after(headers, now).map_or(Retry::Backoff, Retry::After),
        ),
        _ => failure(Cause::Refused, Retry::Never),
    }
}

fn details(error: &Value) -> &[Value] {
    error["details"].as_array().map_or(&[], Vec::as_slice)
}

/// `errorCode` of the `FcmError` among the details.
fn fcm_code(error: &Value) -> Option<&str> {
    details(error)
        .iter()
        .find(|detail| {
            detail["@type"]
                .as_str()
                .is_some_and(|kind| kind.ends_with("/google.firebase.fcm.v1.FcmError"))
        })
        .and_then(|detail| detail["errorCode"].as_str())
}

fn names_the_token(error: &Value) -> bool {
    let in_message = error["message"]
        .as_str()
        .is_some_and(|message| message.contains("not a valid FCM registration token"));
    let in_violations = || {
        details(error)
            .iter()
            .filter_map(|detail| detail["fieldViolations"].as_array())
            .flatten()
            .any(|violation| {
                matches!(
                    violation["field"].as_str(),
                    Some("message.token" | "message.fid")
                )
            })
    };
    in_message || in_violations()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::header::RETRY_AFTER;
    use serde_json::json;

    use proptest::prelude::*;

    use super::*;
    use crate::provider::answers::{any_answer, assert_harmless};

    fn answer(status: u16, retry_after: Option<&str>, body: &[u8]) -> Outcome {
        answer_to(Standing::Proven, status, retry_after, body)
    }

    fn answer_to(
        standing: Standing,
        status: u16,
        retry_after: Option<&str>,
        body: &[u8],
    ) -> Outcome {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(RETRY_AFTER, value.parse().expect("a value"));
        }
        outcome(
            StatusCode::from_u16(status).expect("a status"),
            &headers,
            body,
            standing,
            // Sun, 06 Nov 1994 08:49:37 GMT
            UNIX_EPOCH + Duration::from_secs(784_111_777),
        )
    }

    fn fcm_error(status: u16, canonical: &str, code: &str) -> Outcome {
        fcm_error_to(Standing::Proven, status, canonical, code)
    }

    fn fcm_error_to(standing: Standing, status: u16, canonical: &str, code: &str) -> Outcome {
        let body = json!({"error": {
            "code": status,
            "message": "Words.",
            "status": canonical,
            "details": [
                {"@type": "type.googleapis.com/google.rpc.DebugInfo"},
                {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code},
            ],
        }});
        answer_to(standing, status, None, body.to_string().as_bytes())
    }

    fn plain_error(status: u16, canonical: &str) -> Outcome {
        let body = json!({"error": {"code": status, "message": "Words.", "status": canonical}});
        answer(status, None, body.to_string().as_bytes())
    }

    fn failed(cause: Cause, detail: &str, retry: Retry) -> Outcome {
        Failure::new(cause, detail, retry).into()
    }

    #[test]
    fn ok_is_delivered() {
        assert_eq!(
            answer(200, None, br#"{"name":"projects/p/messages/1"}"#),
            Outcome::Delivered
        );
        assert_eq!(answer(200, None, b""), Outcome::Delivered);
    }

    #[test]
    fn an_unregistered_token_is_rejected() {
        for standing in [Standing::Proven, Standing::Unproven] {
            assert_eq!(
                fcm_error_to(standing, 404, "NOT_FOUND", "UNREGISTERED"),
                Outcome::Rejected(Rejected::Unregistered)
            );
        }
    }

    #[test]
    fn what_a_wrong_configuration_gives_every_token_rejects_none_until_one_push_was_taken() {
        assert_eq!(
            fcm_error_to(
                Standing::Unproven,
                403,
                "PERMISSION_DENIED",
                "SENDER_ID_MISMATCH"
            ),
            failed(Cause::Refused, "403 SENDER_ID_MISMATCH", Retry::Never)
        );
        for field in ["message.token", "message.fid"] {
            let body = json!({"error": {
                "status": "INVALID_ARGUMENT",
                "details": [{"fieldViolations": [{"field": field}]}],
            }});
            assert_eq!(
                answer_to(Standing::Unproven, 400, None, body.to_string().as_bytes()),
                failed(Cause::Refused, "400 INVALID_ARGUMENT", Retry::Never),
                "{field}"
            );
        }
    }

    #[test]
    fn a_404_that_is_not_about_the_token_rejects_nobody() {
        assert_eq!(
            plain_error(404, "NOT_FOUND"),
            failed(Cause::Credentials, "404 NOT_FOUND", Retry::Never)
        );
        assert_eq!(
            answer(404, None, b"<!DOCTYPE html><title>Error 404</title>"),
            failed(Cause::Credentials, "404", Retry::Never)
        );
    }

    #[test]
    fn a_400_whose_message_names_the_token_is_rejected() {
        let body = json!({"error": {
            "code": 400,
            "message": "The registration token is not a valid FCM registration token",
            "status": "INVALID_ARGUMENT",
            "details": [{
                "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
                "errorCode": "INVALID_ARGUMENT",
            }],
        }});
        assert_eq!(
            answer(400, None, body.to_string().as_bytes()),
            Outcome::Rejected(Rejected::InvalidToken)
        );
    }

    #[test]
    fn a_400_whose_field_violation_names_the_token_is_rejected() {
        for (field, rejected) in [
            ("message.token", true),
            ("message.fid", true),
            ("message", false),
            ("message.data[0].value", false),
            ("message.android.ttl", false),
        ] {
            let body = json!({"error": {
                "code": 400,
                "message": "Request contains an invalid argument.",
                "status": "INVALID_ARGUMENT",
                "details": [{
                    "@type": "type.googleapis.com/google.rpc.BadRequest",
                    "fieldViolations": [{"field": field, "description": "Words"}],
                }],
            }});
            let expected = if rejected {
                Outcome::Rejected(Rejected::InvalidToken)
            } else {
                failed(Cause::Refused, "400 INVALID_ARGUMENT", Retry::Never)
            };
            assert_eq!(
                answer(400, None, body.to_string().as_bytes()),
                expected,
                "{field}"
            );
        }
    }

    #[test]
    fn any_other_400_is_refused() {
        assert_eq!(
            fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
            failed(Cause::Refused, "400 INVALID_ARGUMENT", Retry::Never)
        );
        assert_eq!(
            answer(400, None, b""),
            failed(Cause::Refused, "400", Retry::Never)
        );
    }

    #[test]
    fn a_token_of_another_project_is_rejected() {
        assert_eq!(
            fcm_error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
            Outcome::Rejected(Rejected::WrongTopic)
        );
    }

    #[test]
    fn other_403_are_about_the_gateways_credentials() {
        assert_eq!(
            plain_error(403, "PERMISSION_DENIED"),
            failed(Cause::Credentials, "403 PERMISSION_DENIED", Retry::Never)
        );
    }

    #[test]
    fn a_401_asks_for_a_fresh_access_token() {
        assert_eq!(
            plain_error(401, "UNAUTHENTICATED"),
            failed(Cause::Credentials, "401 UNAUTHENTICATED", Retry::Now)
        );
        assert_eq!(
            fcm_error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
            failed(Cause::Refused, "401 THIRD_PARTY_AUTH_ERROR", Retry::Never)
        );
    }

    #[test]
    fn a_quota_is_waited_for() {
        assert_eq!(
            fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
            failed(
                Cause::Throttled,
                "429 QUOTA_EXCEEDED",
                Retry::After(Duration::from_mins(1))
            )
        );
        assert_eq!(
            answer(429, Some("5"), b""),
            failed(
                Cause::Throttled,
                "429",
                Retry::After(Duration::from_secs(5))
            )
        );
    }

    #[test]
    fn googles_own_trouble_is_tried_again() {
        assert_eq!(
            fcm_error(503, "UNAVAILABLE", "UNAVAILABLE"),
            failed(Cause::ProviderError, "503 UNAVAILABLE", Retry::Backoff)
        );
        for value in ["30", "Sun, 06 Nov 1994 08:50:07 GMT"] {
            assert_eq!(
                answer(503, Some(value), b""),
                failed(
                    Cause::ProviderError,
                    "503",
                    Retry::After(Duration::from_secs(30))
                )
            );
        }
        assert_eq!(
            fcm_error(500, "INTERNAL", "INTERNAL"),
            failed(Cause::ProviderError, "500 INTERNAL", Retry::Backoff)
        );
        assert_eq!(
            answer(502, None, b"<html>"),
            failed(Cause::ProviderError, "502", Retry::Backoff)
        );
    }

    #[test]
    fn a_code_counts_only_with_its_status() {
        for status in [400, 401, 403, 429, 500] {
            let outcome = fcm_error(status, "NOT_FOUND", "UNREGISTERED");
            assert!(
                matches!(outcome, Outcome::Failed(_)),
                "{status}: {outcome:?}"
            );
        }
    }

    #[test]
    fn odd_bodies_leave_the_status_to_decide() {
        let deep = "[".repeat(100_000);
        for body in [
            "null",
            "[]",
            r#"{"error":7}"#,
            r#"{"error":{"details":{"errorCode":"UNREGISTERED"}}}"#,
            r#"{"error":{"details":[7,null,{"@type":1,"errorCode":"UNREGISTERED"}]}}"#,
            r#"{"error":{"details":[{"fieldViolations":[{"field":["message.token"]}]}]}}"#,
            &deep,
        ] {
            assert_eq!(
                answer(400, None, body.as_bytes()),
                failed(Cause::Refused, "400", Retry::Never),
                "{}",
                &body[..body.len().min(80)]
            );
        }
        assert_eq!(
            plain_error(409, "see token abc:def"),
            failed(Cause::Refused, "409 other", Retry::Never)
        );
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd((status, headers, body) in any_answer()) {
            assert_harmless(&outcome(status, &headers, &body, Standing::Proven, UNIX_EPOCH + Duration::from_secs(784_111_777)));
        }
    }
}
