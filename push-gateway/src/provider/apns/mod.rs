//! Apple Push Notification service.
//!
//! Source: *Sending notification requests to APNs* (Apple Developer Documentation). One HTTP/2 request
//! per push: the device token in the path, everything but the payload in headers.

mod device_token;
mod outcome;
mod payload;
mod token;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::AUTHORIZATION,
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use shared::{
    clock::Clock,
    http_client::{HttpClient, Origin},
    random::Random,
};

use self::{
    payload::PayloadOptions,
    token::{ProviderToken, SigningFailed, Token},
};
use super::{AppContext, Attempt, transport};
use crate::{
    config::{self, ApnsAuth},
    notification::{Device, Notification},
    opaque::Identifier,
    outcome::{Cause, Failure, Outcome, Rejected, Retry},
};

const APNS_ID: HeaderName = HeaderName::from_static("apns-id");
const APNS_TOPIC: HeaderName = HeaderName::from_static("apns-topic");
const APNS_PUSH_TYPE: HeaderName = HeaderName::from_static("apns-push-type");
const APNS_PRIORITY: HeaderName = HeaderName::from_static("apns-priority");
const APNS_EXPIRATION: HeaderName = HeaderName::from_static("apns-expiration");
const APNS_COLLAPSE_ID: HeaderName = HeaderName::from_static("apns-collapse-id");

/// The longest `apns-collapse-id`: "must not exceed 64 bytes".
const LONGEST_COLLAPSE_ID: usize = 64;

/// The provider of one app.
pub struct Apns {
    origin: Origin,
    scheme: Scheme,
    authority: Authority,
    auth: Auth,
    /// What every push of the app has.
    headers: HeaderMap,
    token_form: device_token::Form,
    payload_options: PayloadOptions,
    request_timeout: Duration,
    clock: Clock,
    random: Random,
}

enum Auth {
    Token(Box<ProviderToken>),
    /// The client certificate is the HTTP client's; here is when it expires.
    Certificate {
        not_after: i64,
    },
}

/// A request made ready for one device.
pub struct Push {
    uri: Uri,
    /// All but `authorization`, and `apns-id` where each attempt has its own.
    headers: HeaderMap,
    body: Bytes,
    pushkey_ts: Option<i64>,
}

impl Apns {
    /// Makes the provider of one app; connects to nothing yet.
    ///
    /// `http` has the certificate of [`ApnsAuth::Certificate`] as its identity.
    ///
    /// # Errors
    ///
    /// A text that names what cannot work.
    pub fn new(
        config: &config::Apns,
        request_timeout: Duration,
        http: HttpClient,
        clock: Clock,
        random: Random,
    ) -> Result<Self, String> {
        let origin = http
            .origin(&config.endpoint)
            .map_err(|error| format!("endpoint: {}", error.detail))?;
        let endpoint = config.endpoint.clone().into_parts();
        let (Some(scheme), Some(authority)) = (endpoint.scheme, endpoint.authority) else {
            return Err("endpoint has no scheme or no host".to_owned());
        };
        let (auth, topic) = match &config.auth {
            ApnsAuth::Token {
                key,
                key_id,
                team_id,
                topic,
            } => {
                let token = ProviderToken::new(key, key_id, team_id)?;
                (Auth::Token(Box::new(token)), topic)
            }
            ApnsAuth::Certificate {
                topic, not_after, ..
            } => (
                Auth::Certificate {
                    not_after: *not_after,
                },
                topic,
            ),
        };
        let topic = HeaderValue::try_from(topic)
            .map_err(|_| "topic has characters that a header cannot carry")?;
        Ok(Self {
            origin,
            scheme,
            authority,
            auth,
            headers: HeaderMap::from_iter([(APNS_TOPIC, topic)]),
            token_form: if config.convert_device_token_to_hex {
                device_token::Form::Base64
            } else {
                device_token::Form::Verbatim
            },
            payload_options: PayloadOptions::from(config),
            request_timeout,
            clock,
            random,
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
        // the payload first: with nothing to send, Sygnal does not look at the pushkey either
        let payload = payload::build(self.payload_options, context, notification, device)?;
        let mut headers = HeaderMap::with_capacity(8);
        headers.extend(self.headers.clone());
        headers.insert(APNS_PRIORITY, number(payload.priority.into()));
        if let Some(push_type) = payload.push_type {
            headers.insert(APNS_PUSH_TYPE, HeaderValue::from_static(push_type.label()));
        }
        if let Some(expiration) = payload.expiration {
            headers.insert(APNS_EXPIRATION, number(expiration));
        }
        if let Some(collapse_id) = payload.collapse_id {
            headers.insert(APNS_COLLAPSE_ID, collapse_value(collapse_id)?);
        }
        if let Some(id) = payload.id {
            headers.insert(APNS_ID, value_of_one_push(id)?);
        }
        Ok(Push {
            uri: self.uri(device.pushkey.expose())?,
            headers,
            body: payload.body,
            pushkey_ts: device.pushkey_ts,
        })
    }

    fn uri(&self, pushkey: &str) -> Result<Uri, Outcome> {
        const DEVICE: &str = "/3/device/";

        let mut path = String::with_capacity(DEVICE.len() + pushkey.len().min(1024) * 3 / 2);
        path.push_str(DEVICE);
        device_token::append(&mut path, pushkey, self.token_form)
            .ok_or(Outcome::Rejected(Rejected::InvalidToken))?;
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query =
            Some(PathAndQuery::from_maybe_shared(Bytes::from(path)).map_err(|_| internal("path"))?);
        Uri::from_parts(parts).map_err(|_| internal("path").into())
    }

    /// Sends a request once.
    pub(super) async fn attempt(&self, push: &Push, deadline: Instant) -> Attempt {
        let now = self.clock.now();
        let deadline = deadline.min(now + self.request_timeout);
        let token = match self.provider_token(now) {
            Ok(token) => token,
            Err(SigningFailed) => {
                return Attempt {
                    outcome: internal("provider token").into(),
                    status: None,
                };
            }
        };
        let answer = match self
            .origin
            .send(self.request(push, token.as_deref()), deadline)
            .await
        {
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
            push.pushkey_ts,
            self.clock.wall(),
        );
        Attempt {
            outcome: self.renew_if_asked(outcome, token.as_ref()),
            status: Some(answer.status.as_u16()),
        }
    }

    fn provider_token(&self, now: Instant) -> Result<Option<Arc<Token>>, SigningFailed> {
        match &self.auth {
            Auth::Token(token) => token.get(now, self.clock.unix_seconds()).map(Some),
            Auth::Certificate { .. } => Ok(None),
        }
    }

    fn request(&self, push: &Push, token: Option<&Token>) -> Request<Bytes> {
        let mut request = Request::new(push.body.clone());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = push.uri.clone();
        *request.headers_mut() = push.headers.clone();
        let headers = request.headers_mut();
        if !headers.contains_key(APNS_ID)
            && let Ok(id) = value_of_one_push(random_uuid(&self.random))
        {
            headers.insert(APNS_ID, id);
        }
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token.authorization.clone());
        }
        request
    }

    /// Credentials that may be tried again at once are an expired provider token, and only with another one.
    fn renew_if_asked(&self, outcome: Outcome, used: Option<&Arc<Token>>) -> Outcome {
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
        let renewed = match (&self.auth, used) {
            (Auth::Token(token), Some(used)) => {
                token.renew(used, self.clock.now(), self.clock.unix_seconds())
            }
            (Auth::Token(_) | Auth::Certificate { .. }, _) => false,
        };
        if !renewed {
            failure.retry = Retry::Never;
        }
        failure.into()
    }

    /// When the certificate or the current provider token expires, in seconds since 1970.
    pub(super) fn credentials_expire_at(&self) -> Option<i64> {
        match &self.auth {
            Auth::Token(token) => token.expires_at()?.try_into().ok(),
            Auth::Certificate { not_after } => Some(*not_after),
        }
    }
}

/// A header value that changes with every push: kept out of the connection's header table, as Apple
/// asks for with `apns-id` and `apns-collapse-id`, and out of sight.
fn value_of_one_push(value: String) -> Result<HeaderValue, Outcome> {
    let mut value = HeaderValue::try_from(value).map_err(|_| internal("header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn collapse_value(collapse_id: String) -> Result<HeaderValue, Outcome> {
    if collapse_id.len() > LONGEST_COLLAPSE_ID {
        return Err(internal("collapse id").into());
    }
    value_of_one_push(collapse_id)
}

fn number(number: u64) -> HeaderValue {
    match number {
        // the priorities that Apple knows
        5 => HeaderValue::from_static("5"),
        10 => HeaderValue::from_static("10"),
        other => HeaderValue::from(other),
    }
}

/// A random UUID (version 4, RFC 9562 §5.4).
fn random_uuid(random: &Random) -> String {
    let mut bytes: [u8; 16] = random.bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Identifier(bytes).to_uuid()
}

/// Something that the configuration and the payload builder rule out.
fn internal(what: &str) -> Failure {
    Failure::new(Cause::Internal, format!("apns {what}"), Retry::Never)
}
