//! The exchange of a signed assertion for an access token.
//!
//! Source: *Using OAuth 2.0 for Server to Server Applications* (Google for Developers), RFC 7523.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header::CONTENT_TYPE};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::Value;
use shared::{
    clock::Clock,
    http_client::{HttpClient, Origin, Response},
};

use super::token::Grant;
use crate::{
    config::ServiceAccount,
    outcome::{Cause, Failure, Retry},
    provider::{detail::detail, payload::non_empty, transport},
    retry_after::retry_after,
};

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// The longest time for which Google accepts an assertion.
const ASSERTION_SECONDS: u64 = 60 * 60;

/// What is assumed of a token whose answer does not say how long it lives: Google's constant.
const USUAL_LIFETIME: Duration = Duration::from_hours(1);

/// Google's token endpoint, as one service account uses it.
pub(super) struct OAuth {
    origin: Origin,
    token_uri: http::Uri,
    client_email: String,
    key: EncodingKey,
    header: Header,
    request_timeout: Duration,
    clock: Clock,
}

#[derive(Serialize)]
struct Claims<'claims> {
    iss: &'claims str,
    scope: &'static str,
    aud: &'claims str,
    iat: u64,
    exp: u64,
}

impl OAuth {
    /// Takes a service account; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A text, when its key or its `token_uri` cannot be used.
    pub(super) fn new(
        account: &ServiceAccount,
        request_timeout: Duration,
        http: &HttpClient,
        clock: Clock,
    ) -> Result<Self, String> {
        let key = EncodingKey::from_rsa_pem(account.private_key.expose().as_bytes())
            .map_err(|_| "private_key of the service account is not an RSA key in PEM")?;
        let mut header = Header::new(Algorithm::RS256);
        header.kid.clone_from(&account.private_key_id);
        let origin = http
            .origin(&account.token_uri)
            .map_err(|error| format!("token_uri of the service account: {}", error.detail))?;
        Ok(Self {
            origin,
            token_uri: account.token_uri.clone(),
            client_email: account.client_email.clone(),
            key,
            header,
            request_timeout,
            clock,
        })
    }

    /// Asks for an access token once.
    ///
    /// # Errors
    ///
    /// A failure whose detail begins with `oauth`.
    pub(super) async fn fetch(&self) -> Result<Grant, Failure> {
        let deadline = self.clock.now() + self.request_timeout;
        self.grant(&self.ask(deadline).await?)
    }

    /// What an answer to [`OAuth::ask`] means.
    ///
    /// # Errors
    ///
    /// As [`OAuth::fetch`].
    pub(super) fn grant(&self, answer: &Response) -> Result<Grant, Failure> {
        grant(
            answer.status,
            &answer.headers,
            &answer.body,
            self.clock.wall(),
        )
    }

    /// Sends one request for an access token.
    ///
    /// # Errors
    ///
    /// As [`OAuth::fetch`], when there is no answer.
    pub(super) async fn ask(&self, deadline: Instant) -> Result<Response, Failure> {
        let body = self.body(self.clock.unix_seconds())?;
        let mut request = Request::post(&self.token_uri)
            .body(body)
            .map_err(|_| internal())?;
        request.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        self.origin
            .send(request, deadline)
            .await
            .map_err(|error| of_oauth(transport::failure(&error)))
    }

    fn body(&self, unix_seconds: u64) -> Result<Bytes, Failure> {
        let claims = Claims {
            iss: &self.client_email,
            scope: SCOPE,
            aud: &self.token_uri.to_string(),
            iat: unix_seconds,
            exp: unix_seconds.saturating_add(ASSERTION_SECONDS),
        };
        let assertion =
            jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|_| internal())?;
        // a JWT consists of characters that need no escaping in a form
        Ok(Bytes::from(format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
        )))
    }
}

/// What the token endpoint's answer means.
///
/// | status | outcome | tried again |
/// |---|---|---|
/// | 200 with an `access_token` | a token, for `expires_in` seconds (a number or a text), else an hour | |
/// | 200 without | failed: `provider_error` | after back-off |
/// | 429 | failed: `throttled` | after `Retry-After`, else after back-off |
/// | 5xx | failed: `provider_error` | after `Retry-After`, else after back-off |
/// | other (`invalid_grant`, `invalid_client`, …) | failed: `credentials` | never |
fn grant(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: std::time::SystemTime,
) -> Result<Grant, Failure> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    if status == StatusCode::OK
        && let Some(grant) = non_empty(&body["access_token"]).and_then(|token| {
            let mut authorization = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
            authorization.set_sensitive(true);
            Some(Grant {
                authorization,
                lifetime: lifetime(&body["expires_in"]),
            })
        })
    {
        return Ok(grant);
    }
    let (cause, retry) = match status.as_u16() {
        429 | 500..=599 => (
            if status == StatusCode::TOO_MANY_REQUESTS {
                Cause::Throttled
            } else {
                Cause::ProviderError
            },
            retry_after(headers, now).map_or(Retry::Backoff, Retry::After),
        ),
        200 => (Cause::ProviderError, Retry::Backoff),
        _ => (Cause::Credentials, Retry::Never),
    };
    let detail = detail(status, body["error"].as_str());
    Err(of_oauth(Failure::new(cause, detail, retry)))
}

fn lifetime(expires_in: &Value) -> Duration {
    let seconds = match expires_in {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_f64(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .unwrap_or(USUAL_LIFETIME)
}

fn of_oauth(mut failure: Failure) -> Failure {
    failure.detail.insert_str(0, "oauth ");
    failure
}

fn internal() -> Failure {
    Failure::new(Cause::Internal, "oauth assertion", Retry::Never)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::header::RETRY_AFTER;

    use proptest::prelude::*;

    use super::*;
    use crate::provider::answers::{any_answer, assert_harmless};

    fn answer(status: u16, body: &str) -> Result<Grant, Failure> {
        answer_after(status, None, body)
    }

    fn answer_after(status: u16, after: Option<&str>, body: &str) -> Result<Grant, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(value) = after {
            headers.insert(RETRY_AFTER, value.parse().expect("a value"));
        }
        grant(
            StatusCode::from_u16(status).expect("a status"),
            &headers,
            body.as_bytes(),
            UNIX_EPOCH,
        )
    }

    fn failed(cause: Cause, detail: &str, retry: Retry) -> Failure {
        Failure::new(cause, detail, retry)
    }

    #[test]
    fn a_token_is_taken_with_its_lifetime() {
        let grant = answer(
            200,
            r#"{"access_token":"ya29.abc","expires_in":3599,"token_type":"Bearer"}"#,
        )
        .expect("a token");
        assert_eq!(grant.authorization, "Bearer ya29.abc");
        assert!(grant.authorization.is_sensitive());
        assert_eq!(grant.lifetime, Duration::from_secs(3599));
    }

    #[test]
    fn the_lifetime_is_read_leniently() {
        for (text, seconds) in [
            ("3599", 3599),
            ("3599.0", 3599),
            (r#""1800""#, 1800),
            ("-1", 3600),
            ("null", 3600),
            ("[]", 3600),
            (r#""soon""#, 3600),
            ("1e999", 3600),
        ] {
            let body = format!(r#"{{"access_token":"t","expires_in":{text}}}"#);
            let grant = answer(200, &body).expect("a token");
            assert_eq!(grant.lifetime, Duration::from_secs(seconds), "{text}");
        }
        let grant = answer(200, r#"{"access_token":"t"}"#).expect("a token");
        assert_eq!(grant.lifetime, USUAL_LIFETIME);
    }

    #[test]
    fn an_answer_without_a_token_is_googles_fault() {
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"access_token":7}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":"a\nb"}"#,
        ] {
            assert_eq!(
                answer(200, body).expect_err("no token"),
                failed(Cause::ProviderError, "oauth 200", Retry::Backoff),
                "{body}"
            );
        }
    }

    #[test]
    fn refused_credentials_are_for_the_operator() {
        for (status, word) in [
            (400, "invalid_grant"),
            (401, "invalid_client"),
            (403, "access_denied"),
        ] {
            let body =
                format!(r#"{{"error":"{word}","error_description":"Invalid JWT Signature."}}"#);
            assert_eq!(
                answer(status, &body).expect_err("no token"),
                failed(
                    Cause::Credentials,
                    &format!("oauth {status} {word}"),
                    Retry::Never
                )
            );
        }
        assert_eq!(
            answer(404, "").expect_err("no token"),
            failed(Cause::Credentials, "oauth 404", Retry::Never)
        );
    }

    #[test]
    fn googles_own_trouble_is_tried_again() {
        assert_eq!(
            answer(503, "").expect_err("no token"),
            failed(Cause::ProviderError, "oauth 503", Retry::Backoff)
        );
        assert_eq!(
            answer_after(500, Some("4"), "").expect_err("no token"),
            failed(
                Cause::ProviderError,
                "oauth 500",
                Retry::After(Duration::from_secs(4))
            )
        );
        assert_eq!(
            answer_after(429, Some("9"), r#"{"error":"rate_limit_exceeded"}"#)
                .expect_err("no token"),
            failed(
                Cause::Throttled,
                "oauth 429 rate_limit_exceeded",
                Retry::After(Duration::from_secs(9))
            )
        );
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd((status, headers, body) in any_answer()) {
            if let Err(failure) = grant(status, &headers, &body, UNIX_EPOCH) {
                assert_harmless(&failure.into());
            }
        }
    }
}
