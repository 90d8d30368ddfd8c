//! The keys that a client puts into its pusher's `data` (spec/opaque-push.md §2).

use std::fmt;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Map, Value};
use shared::secret::Secret;
use zeroize::Zeroizing;

use crate::notification::Device;

/// The name of the keys' object, in `data` or in `default_payload`.
pub const MEMBER: &str = "nocturne";

/// A Web Push receiver's keys (RFC 8291 §3.1): what a message to it is encrypted with.
#[derive(Clone)]
pub struct ReceiverKeys {
    /// `p256dh`: an uncompressed P-256 point. Its form is checked, not that it lies on the curve.
    pub p256dh: [u8; 65],
    /// `auth`
    pub auth: Secret<[u8; 16]>,
}

/// What a device gave the gateway so that its pushes mean something to it alone.
#[derive(Clone, Debug)]
pub enum DeviceKeys {
    /// `p256dh` and `auth`: a sealed blob; then no tags are sent.
    Blob(ReceiverKeys),
    /// `secret`: tags.
    Tags(Secret<[u8; 32]>),
}

/// Why a device's keys are ignored, in words for the app's developer: they are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Ignored {
    /// Its `v` is a number, and not 1.
    #[error("`v` of `nocturne` is a version that this gateway does not know")]
    Version,
    /// It is something else.
    #[error("`nocturne` is not an object")]
    NoObject,
    /// It does not say which version it is.
    #[error("`nocturne` has no number `v`")]
    NoVersion,
    /// Neither is of use alone.
    #[error("one of `p256dh` and `auth` is there without the other")]
    HalfOfPair,
    /// Text, base64 or length are wrong.
    #[error("`p256dh` is not 65 bytes of an uncompressed point in base64url")]
    P256dh,
    /// Text, base64 or length are wrong.
    #[error("`auth` is not 16 bytes in base64url")]
    Auth,
    /// It has the form of a point and is none.
    #[error("`p256dh` is not a point on the curve P-256")]
    OffCurve,
    /// Text, base64 or length are wrong.
    #[error("`secret` is not 32 bytes in base64url")]
    Secret,
}

impl Ignored {
    /// The metric label. Closed set.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::NoObject
            | Self::NoVersion
            | Self::HalfOfPair
            | Self::P256dh
            | Self::Auth
            | Self::OffCurve
            | Self::Secret => "malformed",
        }
    }
}

impl DeviceKeys {
    /// The keys in a device's `nocturne` object; `None` when it has no such object, or one without keys.
    ///
    /// # Errors
    ///
    /// Why there is one that cannot be used: the push goes out as if there were none.
    pub fn of_device(device: &Device) -> Result<Option<Self>, Ignored> {
        let Some(object) = nocturne_value(device) else {
            return Ok(None);
        };
        let object = object.as_object().ok_or(Ignored::NoObject)?;
        check_version(object)?;
        if let Some(keys) = ReceiverKeys::of_members(object)? {
            return Ok(Some(Self::Blob(keys)));
        }
        let Some(secret) = object.get("secret") else {
            return Ok(None);
        };
        let secret = secret.as_str().and_then(decode).map(Zeroizing::new);
        let secret = secret
            .as_deref()
            .map(Vec::as_slice)
            .map(<[u8; 32]>::try_from);
        match secret {
            Some(Ok(secret)) => Ok(Some(Self::Tags(Secret::new(secret)))),
            Some(Err(_)) | None => Err(Ignored::Secret),
        }
    }
}

/// 1, however it is written; not for ever will all that JSON is made with write it without a point.
fn check_version(object: &Map<String, Value>) -> Result<(), Ignored> {
    match object.get("v") {
        Some(Value::Number(number)) if number.as_f64() == Some(1.0) => Ok(()),
        Some(Value::Number(_)) => Err(Ignored::Version),
        Some(_) | None => Err(Ignored::NoVersion),
    }
}

/// base64url with or without padding. Spare bits at the end may be set, as Python takes that, too.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The same in the standard alphabet.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64URL.decode(text).or_else(|_| BASE64.decode(text)).ok()
}

/// The first byte of an uncompressed point (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;

impl ReceiverKeys {
    /// Reads both keys from base64, with or without padding; `None` when either is malformed.
    ///
    /// base64url is what browsers give; the standard alphabet is taken, too, since some clients encode
    /// the raw keys with it.
    #[must_use]
    pub fn parse(p256dh: &str, auth: &str) -> Option<Self> {
        Self::decode(p256dh, auth).ok()
    }

    fn decode(p256dh: &str, auth: &str) -> Result<Self, Ignored> {
        let p256dh = decode(p256dh)
            .and_then(|bytes| <[u8; 65]>::try_from(bytes).ok())
            .filter(|point| point.first() == Some(&UNCOMPRESSED))
            .ok_or(Ignored::P256dh)?;
        let auth = decode(auth).map(Zeroizing::new).ok_or(Ignored::Auth)?;
        let auth: [u8; 16] = auth.as_slice().try_into().map_err(|_| Ignored::Auth)?;
        Ok(Self {
            p256dh,
            auth: Secret::new(auth),
        })
    }

    /// The receiver keys of a device: those of its `nocturne` object, else plain `data.p256dh` and
    /// `data.auth`; `None` when it gave none.
    ///
    /// # Errors
    ///
    /// Why those that it gave cannot be used. It asked for encryption: nothing goes to it in clear.
    pub fn of_device(device: &Device) -> Result<Option<Self>, Ignored> {
        let of_object = DeviceKeys::of_device(device);
        if let Ok(Some(DeviceKeys::Blob(keys))) = of_object {
            return Ok(Some(keys));
        }
        let plain = device.data.as_ref().map_or(Ok(None), Self::of_members);
        match (of_object, plain) {
            (_, Ok(Some(keys))) => Ok(Some(keys)),
            (Err(reason), _) | (Ok(_), Err(reason)) => Err(reason),
            (Ok(_), Ok(None)) => Ok(None),
        }
    }

    fn of_members(members: &Map<String, Value>) -> Result<Option<Self>, Ignored> {
        match (members.get("p256dh"), members.get("auth")) {
            (None, None) => Ok(None),
            (Some(p256dh), Some(auth)) => {
                let p256dh = p256dh.as_str().ok_or(Ignored::P256dh)?;
                let auth = auth.as_str().ok_or(Ignored::Auth)?;
                Self::decode(p256dh, auth).map(Some)
            }
            (Some(_), None) | (None, Some(_)) => Err(Ignored::HalfOfPair),
        }
    }
}

impl fmt::Debug for ReceiverKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ReceiverKeys([hidden])")
    }
}

/// The device's `nocturne` object; the one in `data` wins over that in `default_payload`.
fn nocturne_value(device: &Device) -> Option<&Value> {
    let data = device.data.as_ref()?;
    data.get(MEMBER)
        .or_else(|| data.get("default_payload")?.get(MEMBER))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;
    use crate::notification::Pushkey;

    fn point(fill: u8) -> [u8; 65] {
        let mut point = [fill; 65];
        point[0] = UNCOMPRESSED;
        point
    }

    fn keys(fill: u8) -> Value {
        json!({
            "v": 1,
            "p256dh": URL_SAFE_NO_PAD.encode(point(fill)),
            "auth": URL_SAFE_NO_PAD.encode([fill; 16])
        })
    }

    fn device(data: &Value) -> Device {
        Device {
            app_id: String::new(),
            pushkey: Pushkey::new(""),
            pushkey_ts: None,
            data: data.as_object().cloned(),
        }
    }

    /// The fill byte of the receiver keys that a device with this `data` has.
    fn found(data: &Value) -> Result<Option<u8>, Ignored> {
        let Some(keys) = ReceiverKeys::of_device(&device(data))? else {
            return Ok(None);
        };
        assert_eq!(keys.p256dh[1], keys.auth.expose()[0]);
        Ok(Some(keys.auth.expose()[0]))
    }

    /// What a device with this `data` has, and the fill byte of it.
    fn all_found(data: &Value) -> Result<Option<(&'static str, u8)>, Ignored> {
        Ok(match DeviceKeys::of_device(&device(data))? {
            None => None,
            Some(DeviceKeys::Blob(keys)) => Some(("blob", keys.auth.expose()[0])),
            Some(DeviceKeys::Tags(secret)) => Some(("tags", secret.expose()[0])),
        })
    }

    fn secret(fill: u8) -> Value {
        json!({ "v": 1, "secret": URL_SAFE_NO_PAD.encode([fill; 32]) })
    }

    #[test]
    fn padding_may_be_there_or_not() {
        for engine in [URL_SAFE, URL_SAFE_NO_PAD] {
            let keys = ReceiverKeys::parse(&engine.encode(point(1)), &engine.encode([2; 16]));
            let keys = keys.unwrap();
            assert_eq!(keys.p256dh, point(1));
            assert_eq!(keys.auth.expose(), &[2; 16]);
        }
    }

    #[test]
    fn malformed_keys_are_none() {
        let good = URL_SAFE_NO_PAD.encode(point(1));
        let auth = URL_SAFE_NO_PAD.encode([2; 16]);
        for (p256dh, auth) in [
            ("", auth.as_str()),
            ("!", &auth),
            (&good[..80], &auth),
            (&URL_SAFE_NO_PAD.encode([1; 65]), &auth),
            (&good, ""),
            (&good, "é"),
            (&good, &good),
        ] {
            assert!(ReceiverKeys::parse(p256dh, auth).is_none());
        }
    }

    #[test]
    fn keys_are_found_in_their_places_in_order() {
        assert_eq!(
            found(&json!({"nocturne": keys(1), "default_payload": {"nocturne": keys(2)}})),
            Ok(Some(1))
        );
        assert_eq!(
            found(&json!({"default_payload": {"nocturne": keys(2)}})),
            Ok(Some(2))
        );
        assert_eq!(found(&keys(3)), Ok(Some(3)));
        assert_eq!(found(&json!({})), Ok(None));
        assert_eq!(found(&Value::Null), Ok(None));
        assert_eq!(found(&json!({"default_payload": null})), Ok(None));
        // tags are of no use to a push service, and nothing that asks for encryption
        assert_eq!(found(&json!({"nocturne": secret(1)})), Ok(None));
    }

    /// Encryption that a device asked for is not given up because of how it asked.
    #[test]
    fn receiver_keys_that_cannot_be_used_are_told_from_none() {
        let mut plain = keys(3);
        for (nocturne, reason) in [
            (json!(5), Ignored::NoObject),
            (json!({"v": 2}), Ignored::Version),
            (json!({"v": 1, "auth": "x"}), Ignored::HalfOfPair),
        ] {
            assert_eq!(found(&json!({ "nocturne": nocturne })), Err(reason));
            plain["nocturne"] = nocturne;
            assert_eq!(found(&plain), Ok(Some(3)), "the plain ones will do");
        }
        assert_eq!(
            found(&json!({"p256dh": plain["p256dh"]})),
            Err(Ignored::HalfOfPair)
        );
        assert_eq!(
            found(&json!({"p256dh": plain["p256dh"], "auth": "!"})),
            Err(Ignored::Auth)
        );
    }

    #[test]
    fn the_object_is_found_in_both_places_and_the_one_in_data_wins() {
        let both = |first: Value, second: Value| {
            all_found(&json!({"nocturne": first, "default_payload": {"nocturne": second}}))
        };
        assert_eq!(both(secret(1), secret(2)), Ok(Some(("tags", 1))));
        assert_eq!(both(keys(1), secret(2)), Ok(Some(("blob", 1))));
        // also when it is of no use, or has nothing in it
        assert_eq!(both(json!({"v": 1}), secret(2)), Ok(None));
        assert_eq!(both(json!({"v": 7}), secret(2)), Err(Ignored::Version));
        assert_eq!(both(Value::Null, secret(2)), Err(Ignored::NoObject));
        for data in [
            json!({"nocturne": secret(3)}),
            json!({"default_payload": {"nocturne": secret(3), "other": 1}}),
        ] {
            assert_eq!(all_found(&data), Ok(Some(("tags", 3))));
        }
        // not an object of that name, and no data at all
        for data in [
            json!({}),
            json!({"default_payload": null}),
            json!({"default_payload": [secret(1)]}),
            Value::Null,
            // plain keys are Web Push's
            keys(1),
        ] {
            assert_eq!(all_found(&data), Ok(None), "{data}");
        }
    }

    #[test]
    fn with_receiver_keys_there_are_no_tags() {
        let mut all = keys(1);
        all["secret"] = secret(2)["secret"].clone();
        assert_eq!(
            all_found(&json!({ "nocturne": all })),
            Ok(Some(("blob", 1)))
        );
    }

    #[test]
    fn padding_and_alphabet_of_a_secret_may_be_either() {
        use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
        for text in [
            URL_SAFE.encode([0xfb; 32]),
            URL_SAFE_NO_PAD.encode([0xfb; 32]),
            STANDARD.encode([0xfb; 32]),
            STANDARD_NO_PAD.encode([0xfb; 32]),
        ] {
            let data = json!({"nocturne": {"v": 1, "secret": text}});
            assert_eq!(all_found(&data), Ok(Some(("tags", 0xfb))), "{text}");
        }
    }

    #[test]
    fn each_malformed_form_has_its_reason() {
        let point = URL_SAFE_NO_PAD.encode(point(1));
        let auth = URL_SAFE_NO_PAD.encode([1; 16]);
        let compressed = URL_SAFE_NO_PAD.encode([2; 33]);
        let hybrid = URL_SAFE_NO_PAD.encode([6; 65]);
        for (object, reason) in [
            (json!(null), Ignored::NoObject),
            (json!("x"), Ignored::NoObject),
            (json!([1]), Ignored::NoObject),
            (json!({}), Ignored::NoVersion),
            (json!({"secret": "AAAA"}), Ignored::NoVersion),
            (json!({"v": "1"}), Ignored::NoVersion),
            (json!({"v": null}), Ignored::NoVersion),
            (json!({"v": true}), Ignored::NoVersion),
            (json!({"v": 1, "secret": 7}), Ignored::Secret),
            (json!({"v": 1, "secret": null}), Ignored::Secret),
            (json!({"v": 1, "secret": ""}), Ignored::Secret),
            (json!({"v": 1, "secret": "short"}), Ignored::Secret),
            (json!({"v": 1, "secret": auth}), Ignored::Secret),
            (json!({"v": 1, "secret": point}), Ignored::Secret),
            (json!({"v": 1, "secret": "é"}), Ignored::Secret),
            (json!({"v": 1, "p256dh": point}), Ignored::HalfOfPair),
            (json!({"v": 1, "auth": auth}), Ignored::HalfOfPair),
            (json!({"v": 1, "p256dh": 7, "auth": auth}), Ignored::P256dh),
            (
                json!({"v": 1, "p256dh": "!", "auth": auth}),
                Ignored::P256dh,
            ),
            (
                json!({"v": 1, "p256dh": compressed, "auth": auth}),
                Ignored::P256dh,
            ),
            (
                json!({"v": 1, "p256dh": hybrid, "auth": auth}),
                Ignored::P256dh,
            ),
            (
                json!({"v": 1, "p256dh": point, "auth": null}),
                Ignored::Auth,
            ),
            (
                json!({"v": 1, "p256dh": point, "auth": "AAAA"}),
                Ignored::Auth,
            ),
            (
                json!({"v": 1, "p256dh": point, "auth": point}),
                Ignored::Auth,
            ),
        ] {
            for data in [
                json!({ "nocturne": object }),
                json!({ "default_payload": { "nocturne": object } }),
            ] {
                assert_eq!(all_found(&data), Err(reason), "{data}");
            }
            assert_eq!(reason.label(), "malformed");
            assert!(!reason.to_string().is_empty());
        }
    }

    #[test]
    fn another_version_is_ignored_and_one_may_be_written_as_any_number_one() {
        let with_version = |version: &str| {
            let object = secret(1).to_string().replace(r#""v":1"#, version);
            let data = format!(r#"{{"nocturne":{object}}}"#);
            all_found(&serde_json::from_str(&data).unwrap())
        };
        for version in ["0", "2", "-1", "1.5", "10", "18446744073709551617", "1e99"] {
            let found = with_version(&format!(r#""v":{version}"#));
            assert_eq!(found, Err(Ignored::Version), "{version}");
        }
        for version in ["1", "1.0", "1e0"] {
            let found = with_version(&format!(r#""v":{version}"#));
            assert_eq!(found, Ok(Some(("tags", 1))), "{version}");
        }
        assert_eq!(Ignored::Version.label(), "version");
    }
}
