//! Firebase Cloud Messaging, HTTP v1.
//!
//! Source: *Method: projects.messages.send* (Firebase documentation). One HTTP/2 request per push,
//! authorised by the access token of a service account.

mod oauth;
mod outcome;
mod payload;
mod token;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use shared::{
    clock::Clock,
    http_client::{HttpClient, Origin},
    random::Random,
};

use self::{oauth::OAuth, payload::PayloadOptions, token::AccessTokens};
use super::{AppContext, Attempt, Probe, renewal::renew_if_asked, standing, transport};
use crate::{
    config,
    notification::{Device, Notification},
    outcome::{Outcome, Rejected},
};

/// The longest registration token or installation ID that is passed on. Those in use have less than 300
/// characters; Google gives no limit but that of a message.
const LONGEST_TARGET: usize = 4096;

/// A message that Google is only to look at, to a registration token that none can be: they have no spaces.
const TO_NOBODY: &[u8] =
    br#"{"validate_only":true,"message":{"token":"nobody: nocturne doctor","data":{}}}"#;

/// The provider of one app.
pub struct Fcm {
    origin: Origin,
    oauth: Arc<OAuth>,
    /// `{endpoint}/v1/projects/{project}/messages:send`
    uri: Uri,
    /// What every push of the app has.
    headers: HeaderMap,
    tokens: AccessTokens,
    payload_options: PayloadOptions,
    request_timeout: Duration,
    clock: Clock,
    record: standing::Record,
}

/// A request made ready for one device.
pub struct Push {
    body: Bytes,
}

impl Fcm {
    /// Makes the provider of one app; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A text that names what cannot work.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "every provider is made in the same way"
    )]
    pub fn new(
        config: &config::Fcm,
        request_timeout: Duration,
        http: HttpClient,
        clock: Clock,
        _random: Random,
    ) -> Result<Self, String> {
        let origin = http
            .origin(&config.endpoint)
            .map_err(|error| format!("endpoint: {}", error.detail))?;
        let oauth = Arc::new(OAuth::new(
            &config.service_account,
            request_timeout,
            &http,
            clock.clone(),
        )?);
        let fetch = {
            let oauth = Arc::clone(&oauth);
            move || {
                let oauth = Arc::clone(&oauth);
                async move { oauth.fetch().await }
            }
        };
        Ok(Self {
            origin,
            oauth,
            uri: send_uri(&config.endpoint, &config.project_id)?,
            headers: HeaderMap::from_iter([(
                CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            )]),
            tokens: AccessTokens::new(clock.clone(), fetch),
            payload_options: PayloadOptions::from(config),
            request_timeout,
            clock,
            record: standing::Record::default(),
        })
    }

    /// Makes the request for one device.
    ///
    /// # Errors
    ///
    /// The outcome, when there is nothing to send.
    pub(super) fn prepare(
        &self,
        context: &AppContext,
        notification: &Notification,
        device: &Device,
    ) -> Result<Push, Outcome> {
        if device.pushkey.expose().len() > LONGEST_TARGET {
            return Err(Outcome::Rejected(Rejected::InvalidToken));
        }
        payload::build(&self.payload_options, context, notification, device)
            .map(|body| Push { body })
    }

    /// Sends a request once.
    pub(super) async fn attempt(&self, push: &Push, deadline: Instant) -> Attempt {
        let deadline = deadline.min(self.clock.now() + self.request_timeout);
        let token = match self.tokens.get(deadline).await {
            Ok(token) => token,
            Err(failure) => {
                return Attempt {
                    outcome: failure.into(),
                    status: None,
                };
            }
        };
        let request = self.request(push.body.clone(), token.authorization.clone());
        let answer = match self.origin.send(request, deadline).await {
            Ok(answer) => answer,
            Err(error) => {
                return Attempt {
                    outcome: transport::outcome(&error),
                    status: None,
                };
            }
        };
        let outcome = outcome::outcome(
            answer.status,
            &answer.headers,
            &answer.body,
            self.record.standing(),
            self.clock.wall(),
        );
        self.record.learn(&outcome);
        Attempt {
            outcome: renew_if_asked(outcome, || self.tokens.renew(&token)),
            status: Some(answer.status.as_u16()),
        }
    }

    /// Fetches an access token of its own, and has Google look at a message to nobody.
    pub(super) async fn probe(&self, deadline: Instant) -> Probe {
        let deadline = deadline.min(self.clock.now() + self.request_timeout);
        let answer = match self.oauth.ask(deadline).await {
            Ok(answer) => answer,
            Err(failure) => return Probe::unanswered(failure),
        };
        let grant = match self.oauth.grant(&answer) {
            Ok(grant) => grant,
            Err(failure) => return Probe::answered(failure.into(), &answer.headers),
        };
        let request = self.request(Bytes::from_static(TO_NOBODY), grant.authorization);
        match self.origin.send(request, deadline).await {
            Ok(answer) => {
                let outcome = outcome::outcome(
                    answer.status,
                    &answer.headers,
                    &answer.body,
                    standing::Standing::Proven,
                    self.clock.wall(),
                );
                Probe::answered(outcome, &answer.headers)
            }
            Err(error) => Probe::unanswered(transport::outcome(&error)),
        }
    }

    fn request(&self, body: Bytes, authorization: HeaderValue) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(AUTHORIZATION, authorization);
        request
    }

    /// When the current access token expires, in seconds since 1970.
    pub(super) fn credentials_expire_at(&self) -> Option<i64> {
        self.tokens.expires_at()?.try_into().ok()
    }
}

fn send_uri(endpoint: &Uri, project_id: &str) -> Result<Uri, String> {
    // Google: letters, digits and hyphens, for old projects also a domain (`example.org:project`)
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if project_id.is_empty() || !project_id.bytes().all(fits) {
        return Err("project_id has characters that no project ID has".to_owned());
    }
    let mut parts = endpoint.clone().into_parts();
    parts.path_and_query = format!("/v1/projects/{project_id}/messages:send")
        .parse()
        .map(Some)
        .map_err(|_| "project_id cannot be part of a URL")?;
    Uri::from_parts(parts).map_err(|_| "endpoint has no scheme or no host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_to_nobody_is_only_looked_at() {
        let message: serde_json::Value = serde_json::from_slice(TO_NOBODY).expect("JSON");
        assert_eq!(message["validate_only"], true);
        let token = message["message"]["token"].as_str().expect("a text");
        assert!(token.contains(' '), "{token}");
    }

    #[test]
    fn the_uri_names_the_project() {
        let endpoint = Uri::from_static("https://fcm.googleapis.com");
        assert_eq!(
            send_uri(&endpoint, "my-app-1234").expect("a URI"),
            "https://fcm.googleapis.com/v1/projects/my-app-1234/messages:send"
        );
        assert_eq!(
            send_uri(
                &Uri::from_static("http://127.0.0.1:8080/"),
                "example.org:app"
            )
            .expect("a URI"),
            "http://127.0.0.1:8080/v1/projects/example.org:app/messages:send"
        );
        for odd in ["", "a/b", "a?b", "a b", "é", "a%2f"] {
            assert!(send_uri(&endpoint, odd).is_err(), "{odd}");
        }
    }
}
