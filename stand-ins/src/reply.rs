//! What a stand-in answers when it is told to.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// An answer, and what happens around it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How long the answer is held back, besides [`Server::set_delay`](crate::Server::set_delay).
    pub delay: Duration,
    /// What becomes of the connection.
    pub then: Then,
}

/// What becomes of the connection that a request came on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// It stays open.
    #[default]
    Normal,
    /// It is closed without an answer, all its other requests with it.
    DropConnection,
    /// It stays open and this request is never answered.
    HangForever,
    /// The request is answered, and the connection takes no further ones (HTTP/2: GOAWAY).
    GoAway,
}

impl Reply {
    /// A status without a body. Not a status between 100 and 599: 500.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self {
            status: StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
            then: Then::Normal,
        }
    }

    /// A JSON body.
    #[must_use]
    pub fn json(code: u16, body: &Value) -> Self {
        let mut reply = Self::status(code).header("content-type", "application/json");
        reply.body = Bytes::from(body.to_string());
        reply
    }

    /// A text body.
    #[must_use]
    pub fn text(code: u16, body: &str) -> Self {
        let mut reply = Self::status(code).header("content-type", "text/plain");
        reply.body = Bytes::copy_from_slice(body.as_bytes());
        reply
    }

    /// An error of Apple's, such as `apns(410, "Unregistered")`.
    #[must_use]
    pub fn apns(code: u16, reason: &str) -> Self {
        Self::json(code, &json!({ "reason": reason }))
    }

    /// An error of Google's with its FCM error code, such as `fcm(404, "UNREGISTERED")`.
    #[must_use]
    pub fn fcm(code: u16, error_code: &str) -> Self {
        let (status, message) = match error_code {
            "UNREGISTERED" => ("NOT_FOUND", "Requested entity was not found."),
            "SENDER_ID_MISMATCH" => ("PERMISSION_DENIED", "SenderId mismatch"),
            "QUOTA_EXCEEDED" => (
                "RESOURCE_EXHAUSTED",
                "Resource has been exhausted (e.g. check quota).",
            ),
            "INVALID_ARGUMENT" => (
                "INVALID_ARGUMENT",
                "The registration token is not a valid FCM registration token",
            ),
            "UNAVAILABLE" => ("UNAVAILABLE", "The service is currently unavailable."),
            "INTERNAL" => ("INTERNAL", "Internal error encountered."),
            "THIRD_PARTY_AUTH_ERROR" => (
                "UNAUTHENTICATED",
                "Auth error from APNS or Web Push Service",
            ),
            _ => ("UNKNOWN", "Unknown error."),
        };
        Self::google_error(
            code,
            status,
            message,
            &json!({
                "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
                "errorCode": error_code,
            }),
        )
    }

    /// An error about a member of the request, as Google's JSON parser gives it.
    #[must_use]
    pub fn field_violation(field: &str, description: &str) -> Self {
        Self::google_error(
            400,
            "INVALID_ARGUMENT",
            description,
            &json!({
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{ "field": field, "description": description }],
            }),
        )
    }

    /// An error in the form of `google.rpc.Status`.
    #[must_use]
    pub fn google_error(code: u16, status: &str, message: &str, detail: &Value) -> Self {
        Self::json(
            code,
            &json!({ "error": {
                "code": code,
                "message": message,
                "status": status,
                "details": [detail],
            }}),
        )
    }

    /// Adds Apple's `timestamp` (milliseconds since 1970): since when the token is known to be dead.
    #[must_use]
    pub fn timestamp(mut self, milliseconds: u64) -> Self {
        if let Ok(Value::Object(mut body)) = serde_json::from_slice(&self.body) {
            body.insert("timestamp".to_owned(), milliseconds.into());
            self.body = Bytes::from(Value::Object(body).to_string());
        }
        self
    }

    /// Adds a header; one that is not allowed in HTTP is left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(name.to_ascii_lowercase()),
            HeaderValue::try_from(value),
        ) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Adds `Retry-After`: seconds or a date.
    #[must_use]
    pub fn retry_after(self, value: &str) -> Self {
        self.header(header::RETRY_AFTER.as_str(), value)
    }

    /// Holds the answer back.
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Says what becomes of the connection.
    #[must_use]
    pub const fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    /// No answer: the connection is closed.
    #[must_use]
    pub fn drop_connection() -> Self {
        Self::status(500).then(Then::DropConnection)
    }

    /// No answer, ever.
    #[must_use]
    pub fn hang_forever() -> Self {
        Self::status(500).then(Then::HangForever)
    }
}
