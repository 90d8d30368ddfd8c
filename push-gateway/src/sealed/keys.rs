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

/// Why a device's `nocturne` object is ignored. Closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// Its `v` is not 1.
    Version,
    /// It is not an object, or a key in it is not what it should be.
    Malformed,
}

impl Ignored {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Malformed => "malformed",
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
        let object = object.as_object().ok_or(Ignored::Malformed)?;
        match object.get("v").map(Value::as_u64) {
            Some(Some(1)) => {}
            Some(Some(_)) => return Err(Ignored::Version),
            Some(None) | None => return Err(Ignored::Malformed),
        }
        let text = |name| {
            object
                .get(name)
                .map(|value| value.as_str().ok_or(Ignored::Malformed))
                .transpose()
        };
        match (text("p256dh")?, text("auth")?) {
            (Some(p256dh), Some(auth)) => {
                let keys = ReceiverKeys::parse(p256dh, auth).ok_or(Ignored::Malformed)?;
                return Ok(Some(Self::Blob(keys)));
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => return Err(Ignored::Malformed),
        }
        let Some(secret) = text("secret")? else {
            return Ok(None);
        };
        let secret = Zeroizing::new(decode(secret).ok_or(Ignored::Malformed)?);
        let secret = <[u8; 32]>::try_from(secret.as_slice()).map_err(|_| Ignored::Malformed)?;
        Ok(Some(Self::Tags(Secret::new(secret))))
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
        let p256dh: [u8; 65] = decode(p256dh)?.try_into().ok()?;
        if p256dh.first() != Some(&UNCOMPRESSED) {
            return None;
        }
        let auth = Zeroizing::new(decode(auth)?);
        let auth: [u8; 16] = auth.as_slice().try_into().ok()?;
        Some(Self {
            p256dh,
            auth: Secret::new(auth),
        })
    }

    /// The receiver keys of a device: those of its `nocturne` object, else plain `data.p256dh` and `data.auth`.
    #[must_use]
    pub fn of_device(device: &Device) -> Option<Self> {
        let data = device.data.as_ref()?;
        nocturne_object(device)
            .and_then(Self::of_members)
            .or_else(|| Self::of_members(data))
    }

    fn of_members(members: &Map<String, Value>) -> Option<Self> {
        Self::parse(
            members.get("p256dh")?.as_str()?,
            members.get("auth")?.as_str()?,
        )
    }
}

impl fmt::Debug for ReceiverKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ReceiverKeys([hidden])")
    }
}

/// The device's `nocturne` object of version 1; the one in `data` wins over that in `default_payload`.
fn nocturne_object(device: &Device) -> Option<&Map<String, Value>> {
    let object = nocturne_value(device)?.as_object()?;
    (object.get("v")?.as_u64()? == 1).then_some(object)
}

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

    /// The fill byte of the keys that a device with this `data` has.
    fn found(data: &Value) -> Option<u8> {
        let device = Device {
            app_id: String::new(),
            pushkey: Pushkey::new(""),
            pushkey_ts: None,
            data: Some(data.as_object().unwrap().clone()),
        };
        let keys = ReceiverKeys::of_device(&device)?;
        assert_eq!(keys.p256dh[1], keys.auth.expose()[0]);
        Some(keys.auth.expose()[0])
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
            Some(1)
        );
        assert_eq!(
            found(&json!({"default_payload": {"nocturne": keys(2)}})),
            Some(2)
        );
        assert_eq!(found(&keys(3)), Some(3));
        assert_eq!(found(&json!({})), None);
        assert_eq!(
            found(&json!({"default_payload": null, "nocturne": 5})),
            None
        );
    }

    #[test]
    fn another_version_is_ignored() {
        for version in [json!(2), json!("1"), Value::Null] {
            let mut object = keys(1);
            object["v"] = version;
            assert_eq!(found(&json!({"nocturne": object})), None);
        }
    }
}
