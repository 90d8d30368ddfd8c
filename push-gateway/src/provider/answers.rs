//! Any answer that a provider could give, for the tests of what it means.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER};
use proptest::prelude::*;
use serde_json::json;

use super::payload::fixtures::any_value;
use crate::{
    outcome::{Outcome, Retry},
    retry_after,
};

/// What a provider may quote, and nobody may write down.
const QUOTED: &str = "b29aab4711b29aab";

/// Status, headers and body. The statuses and words that mean something come often.
pub(super) fn any_answer() -> impl Strategy<Value = (StatusCode, HeaderMap, Vec<u8>)> {
    let status = prop_oneof![
        proptest::sample::select(&[200, 400, 401, 403, 404, 410, 413, 429, 500, 503][..]),
        100..1000_u16,
    ]
    .prop_map(|status| StatusCode::from_u16(status).expect("a status"));
    let headers = proptest::option::of(prop_oneof![
        "-?[0-9]{0,30}".prop_map(String::into_bytes),
        "(Mon|Sun), [0-9]{1,2} (Jan|Feb) [0-9]{1,5} [0-9]{2}:59:59 GMT"
            .prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..40),
    ])
    .prop_map(|value| {
        let value = value.and_then(|value| HeaderValue::from_bytes(&value).ok());
        let headers = value.map(|value| -> (HeaderName, HeaderValue) { (RETRY_AFTER, value) });
        HeaderMap::from_iter(headers)
    });
    let word = proptest::sample::select(
        &[
            "BadDeviceToken",
            "ExpiredProviderToken",
            "Unregistered",
            "UNREGISTERED",
            "SENDER_ID_MISMATCH",
            "invalid_grant",
            QUOTED,
        ][..],
    );
    let fcm_error = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..100),
        any_value().prop_map(|value| value.to_string().into_bytes()),
        (word.clone(), any_value()).prop_map(|(word, value)| {
            json!({"reason": word, "timestamp": value})
                .to_string()
                .into_bytes()
        }),
        (word.clone(), any_value()).prop_map(|(word, value)| {
            json!({"error": word, "access_token": value, "expires_in": value})
                .to_string()
                .into_bytes()
        }),
        (word, any_value()).prop_map(move |(word, value)| {
            json!({"error": {"status": word, "message": value, "details": [
                value, {"@type": fcm_error, "errorCode": word}, {"fieldViolations": value}]}})
            .to_string()
            .into_bytes()
        }),
    ];
    (status, headers, body)
}

/// That the outcome quotes nothing, and asks for no wait that a sum could not hold.
pub(super) fn assert_harmless(outcome: &Outcome) {
    if let Outcome::Failed(failure) = outcome {
        assert!(!failure.detail.contains(&QUOTED[..8]), "{}", failure.detail);
        assert!(failure.detail.len() < 100, "{}", failure.detail);
        if let Retry::After(wait) = failure.retry {
            assert!(!wait.is_zero() && wait <= retry_after::LONGEST, "{wait:?}");
        }
    }
}
