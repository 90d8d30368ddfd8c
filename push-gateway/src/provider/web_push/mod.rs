//! Web Push (RFC 8030, 8291, 8292).
//!
//! A device is a browser's subscription: `pushkey` is its `p256dh` key, `data.auth` its secret and
//! `data.endpoint` the URL at the browser's push service. The body is encrypted to the browser (RFC 8291),
//! so the push service sees the endpoint, the time, a padded size and who operates the gateway (VAPID).

use std::time::{Duration, Instant};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT},
};
use serde_json::Value;
use shared::{clock::Clock, http_client::HttpClient, random::Random};

use self::{
    payload::{Payload, Urgency},
    vapid::Vapid,
};
use super::{
    AppContext, Attempt,
    endpoint::{Endpoint, EndpointRequest, OriginKey},
};
use crate::{
    config::{self, Glob},
    notification::{Device, Notification},
    outcome::{Cause, Failure, Outcome, Rejected, Retry, Suppressed},
    sealed::{
        aes128gcm::{SealError, seal},
        keys::ReceiverKeys,
    },
};

pub(super) mod outcome;
pub(super) mod payload;
mod vapid;

/// The provider of one app.
pub struct WebPush {
    vapid: Vapid,
    allowed_endpoints: Option<Vec<Glob>>,
    ttl: u32,
    request_timeout: Duration,
    http: HttpClient,
    clock: Clock,
    random: Random,
}

/// A request made ready for one device.
pub struct Push(EndpointRequest);

impl WebPush {
    /// Makes the provider of one app; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A text that names what cannot work.
    pub fn new(
        config: &config::WebPush,
        request_timeout: Duration,
        http: HttpClient,
        clock: Clock,
        random: Random,
    ) -> Result<Self, String> {
        Ok(Self {
            vapid: Vapid::new(&config.vapid_key, &config.vapid_subject)?,
            allowed_endpoints: config.allowed_endpoints.clone(),
            ttl: config.ttl,
            request_timeout,
            http,
            clock,
            random,
        })
    }

    /// Makes the request for one device.
    pub(super) fn prepare(
        &self,
        context: &AppContext,
        notification: &Notification,
        device: &Device,
    ) -> Result<Push, Outcome> {
        let payload = payload::build(self.ttl, context, notification, device)?;
        let (endpoint, keys) =
            subscription(device).ok_or(Outcome::Rejected(Rejected::InvalidData))?;
        if !endpoint.is_named_by(self.allowed_endpoints.as_deref()) {
            return Err(Outcome::Suppressed(Suppressed::EndpointNotAllowed));
        }
        let connections = endpoint.connections(&self.http)?;
        let body = seal_body(&keys, &payload, &self.random)?;
        let authorization = self
            .vapid
            .authorization(endpoint.origin(), self.clock.unix_seconds())
            .map_err(|_| Failure::new(Cause::Internal, "vapid", Retry::Never))?;
        let mut headers = sealed_headers(&payload);
        headers.insert(AUTHORIZATION, authorization);
        Ok(Push(endpoint.request(connections, headers, body)))
    }

    /// Sends a request once.
    pub(super) async fn attempt(&self, push: &Push, deadline: Instant) -> Attempt {
        push.0
            .send(
                &self.clock,
                self.request_timeout,
                deadline,
                outcome::outcome,
            )
            .await
    }
}

impl Push {
    pub(super) const fn origin_key(&self) -> &OriginKey {
        self.0.origin()
    }
}

/// The browser's subscription, if the device has a whole and well-formed one.
fn subscription(device: &Device) -> Option<(Endpoint, ReceiverKeys)> {
    let data = device.data.as_ref()?;
    let text = |name| data.get(name).and_then(Value::as_str);
    let keys = ReceiverKeys::parse(device.pushkey.expose(), text("auth")?)?;
    Some((Endpoint::parse(text("endpoint")?)?, keys))
}

/// Encrypts the body to the device.
pub(super) fn seal_body(
    keys: &ReceiverKeys,
    payload: &Payload,
    random: &Random,
) -> Result<Vec<u8>, Outcome> {
    seal(keys, &payload.plaintext, random).map_err(|error| match error {
        SealError::InvalidKey => Outcome::Rejected(Rejected::InvalidData),
        SealError::TooLong => Failure::new(Cause::TooLarge, "payload", Retry::Never).into(),
        SealError::Internal => Failure::new(Cause::Internal, "encryption", Retry::Never).into(),
    })
}

/// The headers of an encrypted push: RFC 8030 §5.2 to §5.4 and RFC 8291 §4.
pub(super) fn sealed_headers(payload: &Payload) -> HeaderMap {
    let mut headers = push_headers(payload.ttl, payload.urgency);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    // a topic that is no header value could only come from a fault here, and a push without one still arrives
    let topic = payload
        .topic
        .as_deref()
        .and_then(|topic| HeaderValue::from_str(topic).ok());
    if let Some(topic) = topic {
        headers.insert(TOPIC, topic);
    }
    headers
}

/// The headers that every push has, encrypted or not.
pub(super) fn push_headers(ttl: u32, urgency: Urgency) -> HeaderMap {
    HeaderMap::from_iter([
        (TTL, HeaderValue::from(ttl)),
        (URGENCY, HeaderValue::from_static(urgency.label())),
        (CONTENT_ENCODING, HeaderValue::from_static("aes128gcm")),
        (USER_AGENT, HeaderValue::from_static("nocturne")),
    ])
}

const TTL: HeaderName = HeaderName::from_static("ttl");
const URGENCY: HeaderName = HeaderName::from_static("urgency");
const TOPIC: HeaderName = HeaderName::from_static("topic");
