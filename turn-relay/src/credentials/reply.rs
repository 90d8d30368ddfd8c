//! Answers of both routes. None of them may be kept by a cache.

use std::time::Duration;

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A JSON body.
pub(super) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// A Matrix error object.
pub(super) fn matrix_error(status: StatusCode, errcode: &str, text: &str) -> Response {
    json(
        status,
        serde_json::json!({"errcode": errcode, "error": text}).to_string(),
    )
}

/// The errors of the REST route, for which the draft has no form.
pub(super) fn error(status: StatusCode, text: &str) -> Response {
    json(status, serde_json::json!({"error": text}).to_string())
}

/// `Retry-After`, in whole seconds.
pub(super) fn after(mut response: Response, wait: Duration) -> Response {
    let seconds = millis(wait).div_ceil(1000);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Milliseconds, at least one.
pub(super) fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1)
}
