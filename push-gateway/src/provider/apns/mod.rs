//! Apple Push Notification service.
//!
//! Source: *Sending notification requests to APNs* (Apple Developer Documentation). One HTTP/2 request
//! per push: the device token in the path, everything but the payload in headers.

mod device_token;
mod outcome;
mod payload;
mod request;
mod token;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shared::{
    clock::Clock,
    http_client::{HttpClient, Origin},
    random::Random,
};

pub use self::request::Push;
use self::{
    device_token::Form,
    payload::PayloadOptions,
    request::Template,
    token::{ProviderToken, SigningFailed, Token},
};
use super::{AppContext, Attempt, Expiry, Probe, renewal::renew_if_asked, standing, transport};
use crate::{
    config::{self, ApnsAuth},
    notification::{Device, Notification},
    outcome::{Cause, Failure, Outcome, Retry},
};

/// The provider of one app.
pub struct Apns {
    origin: Origin,
    template: Template,
    auth: Auth,
    payload_options: PayloadOptions,
    request_timeout: Duration,
    clock: Clock,
    random: Random,
    record: standing::Record,
}

enum Auth {
    /// Apps with the same key share its tokens: Apple counts how often a key's token changes.
    Token(Arc<ProviderToken>),
    /// The client certificate is the HTTP client's; here is when it expires.
    Certificate { not_after: i64 },
}

impl Apns {
    /// Makes the provider of one app; connects to nothing yet.
    ///
    /// `http` has the certificate of [`ApnsAuth::Certificate`] as its identity.
    ///
    /// # Errors
    ///
    /// A text that names what cannot work.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "every provider is made in the same way"
    )]
    pub fn new(
        config: &config::Apns,
        request_timeout: Duration,
        http: HttpClient,
        clock: Clock,
        random: Random,
    ) -> Result<Self, String> {
        let (auth, topic) = match &config.auth {
            ApnsAuth::Token {
                key,
                key_id,
                team_id,
                topic,
            } => {
                let token = ProviderToken::new(key, key_id, team_id)?;
                (Auth::Token(Arc::new(token)), topic)
            }
            ApnsAuth::Certificate {
                topic, not_after, ..
            } => {
                let not_after = *not_after;
                (Auth::Certificate { not_after }, topic)
            }
        };
        let form = if config.convert_device_token_to_hex {
            Form::Base64
        } else {
            Form::Verbatim
        };
        Ok(Self {
            origin: http
                .origin(&config.endpoint)
                .map_err(|error| format!("endpoint: {}", error.detail))?,
            template: Template::new(&config.endpoint, topic, form)?,
            auth,
            payload_options: PayloadOptions::from(config),
            request_timeout,
            clock,
            random,
            record: standing::Record::default(),
        })
    }

    /// Takes over the provider token of another app, or of this one before a reload, if both have the same
    /// key; says whether they do.
    pub fn share_token_of(&mut self, other: &Self) -> bool {
        let (Auth::Token(own), Auth::Token(others)) = (&mut self.auth, &other.auth) else {
            return false;
        };
        let same = own.is_of_same_key(others);
        if same {
            *own = Arc::clone(others);
        }
        same
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
        self.template
            .push(payload, &device.pushkey, device.pushkey_ts)
    }

    /// Sends a request once.
    pub(super) async fn attempt(&self, push: &Push, deadline: Instant) -> Attempt {
        let now = self.clock.now();
        let deadline = deadline.min(now + self.request_timeout);
        let Ok(token) = self.provider_token(now) else {
            let failure = Failure::new(Cause::Internal, "apns signature", Retry::Never);
            return Attempt {
                outcome: failure.into(),
                status: None,
            };
        };
        let authorization = token.as_ref().map(|token| token.authorization.clone());
        let request = push.request(authorization, &self.random);
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
            push.pushkey_ts,
            self.record.standing(),
            self.clock.wall(),
        );
        self.record.learn(&outcome);
        Attempt {
            outcome: renew_if_asked(outcome, || self.renew(token.as_ref())),
            status: Some(answer.status.as_u16()),
        }
    }

    /// Sends a push to a device token that no device can have.
    pub(super) async fn probe(&self, deadline: Instant) -> Probe {
        let now = self.clock.now();
        let deadline = deadline.min(now + self.request_timeout);
        let Ok(token) = self.provider_token(now) else {
            let failure = Failure::new(Cause::Internal, "apns signature", Retry::Never);
            return Probe::unanswered(failure);
        };
        let push = match self.template.push_to_nobody(self.payload_options.push_type) {
            Ok(push) => push,
            Err(outcome) => return Probe::unanswered(outcome),
        };
        let authorization = token.as_ref().map(|token| token.authorization.clone());
        let request = push.request(authorization, &self.random);
        match self.origin.send(request, deadline).await {
            Ok(answer) => {
                let outcome = outcome::outcome(
                    answer.status,
                    &answer.headers,
                    &answer.body,
                    None,
                    standing::Standing::Proven,
                    self.clock.wall(),
                );
                Probe::answered(outcome, &answer.headers)
            }
            Err(error) => Probe::unanswered(transport::outcome(&error)),
        }
    }

    fn provider_token(&self, now: Instant) -> Result<Option<Arc<Token>>, SigningFailed> {
        match &self.auth {
            Auth::Token(token) => token.get(now, self.clock.unix_seconds()).map(Some),
            Auth::Certificate { .. } => Ok(None),
        }
    }

    /// Replaces a provider token that Apple called expired; says whether there is another one now.
    fn renew(&self, used: Option<&Arc<Token>>) -> bool {
        match (&self.auth, used) {
            (Auth::Token(token), Some(used)) => {
                token.renew(used, self.clock.now(), self.clock.unix_seconds())
            }
            (Auth::Token(_) | Auth::Certificate { .. }, _) => false,
        }
    }

    /// When the certificate or the current provider token expires, in seconds since 1970.
    pub(super) fn credentials_expire_at(&self) -> Option<Expiry> {
        match &self.auth {
            Auth::Token(token) => Some(Expiry::Token(token.expires_at()?.try_into().ok()?)),
            Auth::Certificate { not_after } => Some(Expiry::Certificate(*not_after)),
        }
    }
}
