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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{notification::Pushkey, sealed::plaintext::Plaintext};

    /// The receiver of RFC 8291 Appendix A.
    const P256DH: &str =
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";
    const ENDPOINT: &str = "https://push.example/x";

    #[test]
    fn a_subscription_is_pushkey_auth_and_endpoint() {
        let device = device(
            P256DH,
            json!({"endpoint": ENDPOINT, "auth": AUTH, "more": null}),
        );
        let (endpoint, keys) = subscription(&device).unwrap();
        assert_eq!(endpoint.origin().as_str(), "https://push.example");
        assert_eq!(keys.p256dh[..2], [4, 0x25]);
        assert_eq!(keys.auth.expose()[0], 5);
    }

    #[test]
    fn keys_are_read_in_either_alphabet_with_or_without_padding() {
        let standard = |text: &str| text.replace('-', "+").replace('_', "/");
        for (p256dh, auth) in [
            (P256DH.to_owned(), AUTH.to_owned()),
            (format!("{P256DH}="), format!("{AUTH}==")),
            (standard(P256DH), standard(AUTH)),
            (
                format!("{}=", standard(P256DH)),
                format!("{}==", standard(AUTH)),
            ),
        ] {
            let device = device(&p256dh, json!({"endpoint": ENDPOINT, "auth": auth}));
            assert!(subscription(&device).is_some(), "{p256dh} {auth}");
        }
    }

    #[test]
    fn what_is_no_whole_subscription_is_refused() {
        let good = json!({"endpoint": ENDPOINT, "auth": AUTH});
        let with = |name: &str, value: Value| {
            let mut data = good.clone();
            data[name] = value;
            data
        };
        for (pushkey, data) in [
            ("", good.clone()),
            ("not base64!", good.clone()),
            // one byte less, one byte more
            (&P256DH[..86], good.clone()),
            (&format!("{P256DH}AA"), good.clone()),
            (P256DH, json!({})),
            (P256DH, json!({"endpoint": ENDPOINT})),
            (P256DH, json!({"auth": AUTH})),
            (P256DH, with("auth", Value::Null)),
            (P256DH, with("auth", json!(""))),
            (P256DH, with("auth", json!([AUTH]))),
            (P256DH, with("auth", json!("BTBZMqHH6r4Tts7J_aSI"))),
            (P256DH, with("auth", json!("BTBZMqHH6r4Tts7J_aSIggAA"))),
            (P256DH, with("endpoint", json!(7))),
            (P256DH, with("endpoint", json!("push.example/x"))),
        ] {
            assert!(
                subscription(&device(pushkey, data.clone())).is_none(),
                "{pushkey} {data}"
            );
        }
        let mut without_data = device(P256DH, good);
        without_data.data = None;
        assert!(subscription(&without_data).is_none());
    }

    #[test]
    fn a_key_off_the_curve_rejects_the_pushkey() {
        let keys = ReceiverKeys::parse(&format!("{}A", &P256DH[..86]), AUTH).unwrap();
        let sealed = seal_body(&keys, &payload(None), &Random::seeded(1));
        assert_eq!(sealed, Err(Outcome::Rejected(Rejected::InvalidData)));
    }

    #[test]
    fn an_encrypted_push_has_these_headers_and_no_others() {
        let headers = sealed_headers(&payload(Some("abcdefghijklmnopqrstuv")));
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "content-encoding: aes128gcm",
                "content-type: application/octet-stream",
                "topic: abcdefghijklmnopqrstuv",
                "ttl: 86400",
                "urgency: high",
                "user-agent: nocturne",
            ]
        );
        assert!(!sealed_headers(&payload(None)).contains_key(TOPIC));
    }

    fn payload(topic: Option<&str>) -> Payload {
        Payload {
            plaintext: Plaintext {
                json: b"{}".to_vec(),
                padded_to: 512,
                left_out: None,
            },
            ttl: 86_400,
            urgency: Urgency::High,
            topic: topic.map(str::to_owned),
        }
    }

    fn device(pushkey: &str, data: Value) -> Device {
        let Value::Object(data) = data else {
            unreachable!("the tests' data is an object")
        };
        Device {
            app_id: "com.example".to_owned(),
            pushkey: Pushkey::new(pushkey),
            pushkey_ts: None,
            data: Some(data),
        }
    }
}
