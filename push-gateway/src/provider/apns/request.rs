//! One push as an HTTP request.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::AUTHORIZATION,
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use shared::random::Random;

use super::{
    device_token::{self, Form},
    payload::Payload,
};
use crate::{
    config::ApnsPushType,
    notification::Pushkey,
    opaque::Identifier,
    outcome::{Cause, Failure, Outcome, Rejected, Retry},
};

const APNS_ID: HeaderName = HeaderName::from_static("apns-id");
const APNS_TOPIC: HeaderName = HeaderName::from_static("apns-topic");
const APNS_PUSH_TYPE: HeaderName = HeaderName::from_static("apns-push-type");
const APNS_PRIORITY: HeaderName = HeaderName::from_static("apns-priority");
const APNS_EXPIRATION: HeaderName = HeaderName::from_static("apns-expiration");
const APNS_COLLAPSE_ID: HeaderName = HeaderName::from_static("apns-collapse-id");

const DEVICE: &str = "/3/device/";

/// What no device token can be: its last byte is a half.
const NO_DEVICE: &str = "000000000000000000000000000000000000000000000000000000000000000";

/// The longest `apns-collapse-id`: "must not exceed 64 bytes".
const LONGEST_COLLAPSE_ID: usize = 64;

/// What all requests of one app have in common.
pub(super) struct Template {
    scheme: Scheme,
    authority: Authority,
    topic: HeaderValue,
    form: Form,
}

/// A request made ready for one device.
pub struct Push {
    uri: Uri,
    /// All but `authorization`, and `apns-id` where each attempt has its own.
    headers: HeaderMap,
    body: Bytes,
    pub(super) pushkey_ts: Option<i64>,
}

impl Template {
    /// # Errors
    ///
    /// A text that names what cannot be part of a request.
    pub(super) fn new(endpoint: &Uri, topic: &str, form: Form) -> Result<Self, &'static str> {
        let endpoint = endpoint.clone().into_parts();
        let (Some(scheme), Some(authority)) = (endpoint.scheme, endpoint.authority) else {
            return Err("endpoint has no scheme or no host");
        };
        Ok(Self {
            scheme,
            authority,
            topic: HeaderValue::try_from(topic)
                .map_err(|_| "topic has characters that a header cannot carry")?,
            form,
        })
    }

    /// Addresses a payload to a device.
    ///
    /// # Errors
    ///
    /// The outcome, when the pushkey cannot be a device token.
    pub(super) fn push(
        &self,
        payload: Payload,
        pushkey: &Pushkey,
        pushkey_ts: Option<i64>,
    ) -> Result<Push, Outcome> {
        let uri = self.uri(pushkey)?;
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(APNS_TOPIC, self.topic.clone());
        headers.insert(APNS_PRIORITY, priority(payload.priority));
        if let Some(push_type) = payload.push_type {
            headers.insert(APNS_PUSH_TYPE, HeaderValue::from_static(push_type.label()));
        }
        if let Some(expiration) = payload.expiration {
            headers.insert(APNS_EXPIRATION, HeaderValue::from(expiration));
        }
        if let Some(collapse_id) = payload.collapse_id {
            if collapse_id.len() > LONGEST_COLLAPSE_ID {
                return Err(internal("collapse id").into());
            }
            headers.insert(APNS_COLLAPSE_ID, value_of_one_push(collapse_id)?);
        }
        if let Some(id) = payload.id {
            headers.insert(APNS_ID, value_of_one_push(id)?);
        }
        Ok(Push {
            uri,
            headers,
            body: payload.body,
            pushkey_ts,
        })
    }

    /// A push to a device token that no device can have. Apple looks at the credentials before the token.
    ///
    /// # Errors
    ///
    /// The outcome, when there can be no such request.
    pub(super) fn push_to_nobody(&self, push_type: Option<ApnsPushType>) -> Result<Push, Outcome> {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(APNS_TOPIC, self.topic.clone());
        // as good for background pushes as for all others
        headers.insert(APNS_PRIORITY, priority(5));
        headers.insert(APNS_EXPIRATION, HeaderValue::from(0));
        if let Some(push_type) = push_type {
            headers.insert(APNS_PUSH_TYPE, HeaderValue::from_static(push_type.label()));
        }
        Ok(Push {
            uri: self.uri_of(format!("{DEVICE}{NO_DEVICE}"))?,
            headers,
            body: Bytes::from_static(br#"{"aps":{}}"#),
            pushkey_ts: None,
        })
    }

    fn uri(&self, pushkey: &Pushkey) -> Result<Uri, Outcome> {
        let pushkey = pushkey.expose();
        let mut path = String::with_capacity(DEVICE.len() + pushkey.len().min(1024) * 3 / 2);
        path.push_str(DEVICE);
        device_token::append(&mut path, pushkey, self.form)
            .ok_or(Outcome::Rejected(Rejected::InvalidToken))?;
        self.uri_of(path)
    }

    fn uri_of(&self, path: String) -> Result<Uri, Outcome> {
        let path = PathAndQuery::from_maybe_shared(Bytes::from(path));
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path.map_err(|_| internal("path"))?);
        Uri::from_parts(parts).map_err(|_| internal("path").into())
    }
}

impl Push {
    /// The request of one attempt; `authorization` is the provider token's, if there is one.
    pub(super) fn request(
        &self,
        authorization: Option<HeaderValue>,
        random: &Random,
    ) -> Request<Bytes> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        if !headers.contains_key(APNS_ID)
            && let Ok(id) = value_of_one_push(random_uuid(random))
        {
            headers.insert(APNS_ID, id);
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        request
    }
}

/// A header value that no other push has: marked sensitive, so that it is neither printed nor put into
/// the connection's header table, where it would only displace the constant ones.
fn value_of_one_push(value: String) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(value).map_err(|_| internal("header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn priority(priority: u8) -> HeaderValue {
    match priority {
        5 => HeaderValue::from_static("5"),
        10 => HeaderValue::from_static("10"),
        other => HeaderValue::from(u16::from(other)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn template(form: Form) -> Template {
        Template::new(
            &Uri::from_static("https://api.push.apple.com"),
            "org.example.app",
            form,
        )
        .expect("a template")
    }

    fn payload() -> Payload {
        Payload {
            body: Bytes::from_static(b"{}"),
            priority: 10,
            push_type: None,
            expiration: None,
            collapse_id: None,
            id: None,
        }
    }

    fn request(payload: Payload) -> Request<Bytes> {
        template(Form::Base64)
            .push(payload, &Pushkey::new("spqr"), None)
            .unwrap_or_else(|outcome| panic!("{outcome:?}"))
            .request(None, &Random::seeded(1))
    }

    fn headers(request: &Request<Bytes>) -> Vec<(&str, &str)> {
        let mut headers: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII")))
            .collect();
        headers.sort_unstable();
        headers
    }

    #[test]
    fn a_request_has_what_the_payload_says_and_no_more() {
        let request = request(Payload {
            push_type: Some(ApnsPushType::Alert),
            expiration: Some(1_767_225_600),
            collapse_id: Some("wake".to_owned()),
            id: Some("00010203-0405-0607-0809-0a0b0c0d0e0f".to_owned()),
            ..payload()
        });
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri(), "https://api.push.apple.com/3/device/b29aab");
        assert_eq!(request.body(), "{}");
        assert_eq!(
            headers(&request),
            [
                ("apns-collapse-id", "wake"),
                ("apns-expiration", "1767225600"),
                ("apns-id", "00010203-0405-0607-0809-0a0b0c0d0e0f"),
                ("apns-priority", "10"),
                ("apns-push-type", "alert"),
                ("apns-topic", "org.example.app"),
            ]
        );
    }

    #[test]
    fn without_an_id_each_attempt_has_its_own() {
        let push = template(Form::Base64)
            .push(payload(), &Pushkey::new("spqr"), None)
            .unwrap_or_else(|outcome| panic!("{outcome:?}"));
        let random = Random::seeded(7);
        let ids: Vec<_> = (0..2)
            .map(|_| {
                let request = push.request(None, &random);
                assert!(request.headers()[APNS_ID].is_sensitive());
                request.headers()[APNS_ID]
                    .to_str()
                    .expect("ASCII")
                    .to_owned()
            })
            .collect();
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            assert_eq!(id.len(), 36);
            assert_eq!(&id[14..15], "4", "{id}");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
    }

    #[test]
    fn the_push_to_nobody_has_the_topic_and_a_token_that_no_form_of_pushkey_gives() {
        for form in [Form::Base64, Form::Verbatim] {
            let push = template(form)
                .push_to_nobody(Some(ApnsPushType::Background))
                .unwrap_or_else(|outcome| panic!("{outcome:?}"));
            let request = push.request(None, &Random::seeded(1));
            let token = request.uri().path().strip_prefix(DEVICE).expect("a device");
            assert!(token.bytes().all(|byte| byte == b'0'), "{token}");
            assert_eq!(token.len() % 2, 1);
            assert_eq!(request.headers()[APNS_TOPIC], "org.example.app");
            assert_eq!(request.headers()[APNS_PUSH_TYPE], "background");
            assert_eq!(request.headers()[APNS_PRIORITY], "5");
        }
    }

    #[test]
    fn the_provider_token_is_sent_as_it_is() {
        let push = template(Form::Base64)
            .push(payload(), &Pushkey::new("spqr"), None)
            .unwrap_or_else(|outcome| panic!("{outcome:?}"));
        let request = push.request(
            Some(HeaderValue::from_static("bearer jwt")),
            &Random::seeded(1),
        );
        assert_eq!(request.headers()[AUTHORIZATION], "bearer jwt");
    }

    #[test]
    fn every_priority_is_written_as_a_number() {
        for number in [1, 5, 10, 255] {
            let request = request(Payload {
                priority: number,
                ..payload()
            });
            assert_eq!(request.headers()[APNS_PRIORITY], number.to_string());
        }
    }

    #[test]
    fn a_pushkey_that_is_no_device_token_is_rejected() {
        for (pushkey, form) in [("abc", Form::Base64), ("../x", Form::Verbatim)] {
            let outcome = template(form)
                .push(payload(), &Pushkey::new(pushkey), None)
                .err();
            assert_eq!(outcome, Some(Outcome::Rejected(Rejected::InvalidToken)));
        }
    }

    #[test]
    fn what_no_header_can_carry_is_found_before_sending() {
        for collapse_id in ["x".repeat(65), "a\r\nb".to_owned()] {
            let payload = Payload {
                collapse_id: Some(collapse_id),
                ..payload()
            };
            let outcome = template(Form::Base64)
                .push(payload, &Pushkey::new("spqr"), None)
                .err();
            assert!(
                matches!(&outcome, Some(Outcome::Failed(failure)) if failure.cause == Cause::Internal),
                "{outcome:?}"
            );
        }
        let endpoint = Uri::from_static("https://api.push.apple.com");
        assert!(Template::new(&endpoint, "a\nb", Form::Base64).is_err());
        assert!(Template::new(&Uri::from_static("/path"), "topic", Form::Base64).is_err());
    }
}
