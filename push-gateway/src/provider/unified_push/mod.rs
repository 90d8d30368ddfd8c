//! UnifiedPush push servers (spec/opaque-push.md §6).
//!
//! The pushkey is the endpoint: a URL at the push server that the user chose. The protocol is that of Web
//! Push, without VAPID. A device that registered keys gets an encrypted body. Today's clients register
//! none and take their JSON in clear; it goes out with `Content-Encoding: aes128gcm` all the same and
//! without a `Content-Type`, because push servers know a UnifiedPush message by that and the project's
//! own gateway sends it so.

use std::time::{Duration, Instant};

use shared::{clock::Clock, http_client::HttpClient, random::Random};

use self::payload::Payload;
use super::{
    AppContext, Attempt,
    endpoint::{Endpoint, EndpointRequest, OriginKey},
    payload::is_low,
    web_push::{self, payload::Urgency},
};
use crate::{
    config::{self, Glob},
    notification::{Device, Notification},
    outcome::{Cause, Failure, Outcome, Rejected, Retry, Suppressed},
    sealed::{aes128gcm::MAX_MESSAGE, keys::Ignored},
};

mod outcome;
mod payload;

/// `TTL` of a push in clear, in seconds.
const CLEAR_TTL: u32 = 24 * 60 * 60;

/// The provider of one app.
pub struct UnifiedPush {
    allowed_endpoints: Option<Vec<Glob>>,
    request_timeout: Duration,
    http: HttpClient,
    clock: Clock,
    random: Random,
}

/// A request made ready for one device.
pub struct Push(EndpointRequest);

impl UnifiedPush {
    /// Makes the provider of one app; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A text that names what cannot work.
    pub fn new(
        config: &config::UnifiedPush,
        request_timeout: Duration,
        http: HttpClient,
        clock: Clock,
        random: Random,
    ) -> Result<Self, String> {
        Ok(Self {
            allowed_endpoints: config.allowed_endpoints.clone(),
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
        let payload = payload::build(context, notification, device)?;
        let endpoint = Endpoint::parse(device.pushkey.expose())
            .ok_or(Outcome::Rejected(Rejected::InvalidToken))?;
        if !endpoint.is_named_by(self.allowed_endpoints.as_deref()) {
            return Err(Outcome::Suppressed(Suppressed::EndpointNotAllowed));
        }
        let connections = endpoint.connections(&self.http)?;
        let clear_headers = || {
            let urgency = if is_low(context, notification) {
                Urgency::Normal
            } else {
                Urgency::High
            };
            web_push::push_headers(CLEAR_TTL, urgency)
        };
        let (headers, body) = match payload {
            Payload::Sealed { keys, payload } => {
                match web_push::seal_body(&keys, &payload, &self.random) {
                    Ok(body) => (web_push::sealed_headers(&payload), body.into()),
                    // the pushkey is the endpoint, and nothing is wrong with that
                    Err(Outcome::Rejected(Rejected::InvalidData)) => {
                        context.shortfalls.ignored_keys(Ignored::OffCurve);
                        (clear_headers(), payload::without_contents())
                    }
                    Err(outcome) => return Err(outcome),
                }
            }
            Payload::Clear(body) if body.len() > MAX_MESSAGE => {
                return Err(Failure::new(Cause::TooLarge, "payload", Retry::Never).into());
            }
            Payload::Clear(body) => (clear_headers(), body),
        };
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
