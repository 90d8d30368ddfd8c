//! The body of `POST /_matrix/push/v1/notify`: validated into a [`Request`] or refused with the reason.
//!
//! Sygnal's checks in Sygnal's order, with two differences: null is accepted wherever the Matrix
//! specification lets a field be absent, and what makes Sygnal answer 500 is a 400 here.

use serde_json::{Map, Value};

use crate::notification::{Device, Notification, Priority, Pushkey};

/// A valid request.
#[derive(Debug)]
pub struct Request {
    /// What is told.
    pub notification: Notification,
    /// Whom; at least one.
    pub devices: Vec<Device>,
}

/// Why a body is refused: a Matrix `errcode` and a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not UTF-8, not JSON, or more than one JSON value.
    #[error("Expected JSON request body")]
    NotJson,
    /// The top level is not an object with an object in `notification`.
    #[error("Invalid notification: expecting object in 'notification' key")]
    NoNotification,
    /// `devices` is not a list.
    #[error("Expected list in 'devices' key")]
    NoDeviceList,
    /// A device is not an object.
    #[error("Expected objects in 'devices' list")]
    NotADevice,
    /// `app_id` is missing or not a string.
    #[error("Device with missing or non-string app_id")]
    NoAppId,
    /// `pushkey` is missing or not a string.
    #[error("Device with missing or non-string pushkey")]
    NoPushkey,
    /// A field that is checked has a value of another type.
    #[error("{0} is of invalid type")]
    InvalidType(&'static str),
    /// `devices` is empty.
    #[error("No devices in notification")]
    NoDevices,
}

impl Invalid {
    /// The Matrix error code.
    #[must_use]
    pub const fn errcode(self) -> &'static str {
        match self {
            Self::NotJson => "M_NOT_JSON",
            Self::NoNotification
            | Self::NoDeviceList
            | Self::NoDevices
            | Self::NotADevice
            | Self::NoAppId
            | Self::NoPushkey
            | Self::InvalidType(_) => "M_BAD_JSON",
        }
    }
}

/// Reads a body.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn parse(body: &[u8]) -> Result<Request, Invalid> {
    let Ok(body) = serde_json::from_slice(body) else {
        return Err(Invalid::NotJson);
    };
    let Value::Object(mut body) = body else {
        return Err(Invalid::NoNotification);
    };
    let Some(Value::Object(mut fields)) = body.get_mut("notification").map(Value::take) else {
        return Err(Invalid::NoNotification);
    };
    let mut take = |name: &str| fields.get_mut(name).map_or(Value::Null, Value::take);
    let Value::Array(devices) = take("devices") else {
        return Err(Invalid::NoDeviceList);
    };
    let (unread, missed_calls) = match take("counts") {
        Value::Object(counts) => (
            integer(counts.get("unread"), "unread")?,
            integer(counts.get("missed_calls"), "missed_calls")?,
        ),
        // Sygnal takes a list or a text for an object without counts; it fails on the others.
        Value::Null | Value::Array(_) | Value::String(_) => (None, None),
        Value::Bool(_) | Value::Number(_) => return Err(Invalid::InvalidType("counts")),
    };
    let devices = devices
        .into_iter()
        .map(device)
        .collect::<Result<Vec<_>, _>>()?;
    if devices.is_empty() {
        return Err(Invalid::NoDevices);
    }
    let priority = if take("prio") == Value::String("low".to_owned()) {
        Priority::Low
    } else {
        Priority::High
    };
    let notification = Notification {
        event_id: take("event_id"),
        room_id: take("room_id"),
        kind: take("type"),
        sender: take("sender"),
        sender_display_name: take("sender_display_name"),
        room_name: take("room_name"),
        room_alias: take("room_alias"),
        membership: take("membership"),
        user_is_target: take("user_is_target"),
        content: take("content"),
        priority,
        unread,
        missed_calls,
    };
    Ok(Request {
        notification,
        devices,
    })
}

fn device(device: Value) -> Result<Device, Invalid> {
    let Value::Object(mut fields) = device else {
        return Err(Invalid::NotADevice);
    };
    let app_id = text(&mut fields, "app_id").ok_or(Invalid::NoAppId)?;
    let pushkey = text(&mut fields, "pushkey").ok_or(Invalid::NoPushkey)?;
    let pushkey_ts = integer(fields.get("pushkey_ts"), "pushkey_ts")?;
    let data = match fields.get_mut("data").map_or(Value::Null, Value::take) {
        Value::Object(data) => Some(data),
        Value::Null => None,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return Err(Invalid::InvalidType("data"));
        }
    };
    // Checked as Sygnal does, and used for nothing, as in Sygnal.
    match fields.get("tweaks") {
        None | Some(Value::Null) => {}
        Some(Value::Object(tweaks)) => match tweaks.get("sound") {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(_) => return Err(Invalid::InvalidType("sound")),
        },
        Some(_) => return Err(Invalid::InvalidType("tweaks")),
    }
    Ok(Device {
        app_id,
        pushkey: Pushkey::new(pushkey),
        pushkey_ts,
        data,
    })
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
    match fields.get_mut(name)?.take() {
        Value::String(text) => Some(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

/// An integer, or nothing where the field is absent or null. Booleans are integers to Sygnal.
///
/// One that does not fit 64 bits is an integer all the same, at the end of the range.
fn integer(value: Option<&Value>, name: &'static str) -> Result<Option<i64>, Invalid> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(i64::from(*value))),
        Some(Value::Number(number)) => {
            let text = number.as_str();
            let (negative, digits) = text
                .strip_prefix('-')
                .map_or((false, text), |digits| (true, digits));
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Invalid::InvalidType(name));
            }
            Ok(Some(text.parse().unwrap_or(if negative {
                i64::MIN
            } else {
                i64::MAX
            })))
        }
        Some(Value::String(_) | Value::Array(_) | Value::Object(_)) => {
            Err(Invalid::InvalidType(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::provider::any_value;

    fn refused(body: &Value) -> Invalid {
        parse(body.to_string().as_bytes()).expect_err("the body is refused")
    }

    /// With its feature `raw_value` `serde_json` reads the text in such a member as JSON of its own, with a
    /// depth of its own: nested, half a megabyte is 25,000 levels deep, which no stack holds.
    #[test]
    fn no_text_inside_the_body_is_read_as_json() {
        let mut content = json!("");
        for _ in 0..3 {
            let mut inner = content.to_string();
            inner.insert_str(0, &"[".repeat(100));
            inner.push_str(&"]".repeat(100));
            content = json!({"$serde_json::private::RawValue": inner});
        }
        let request = parse(
            json!({"notification": {
                "content": content,
                "devices": [{"app_id": "a", "pushkey": "k"}],
            }})
            .to_string()
            .as_bytes(),
        )
        .expect("an object with a text is nothing special");
        assert_eq!(request.notification.content, content);
    }

    fn with_device(device: &Value) -> Value {
        json!({"notification": {"devices": [device]}})
    }

    #[test]
    fn each_check_of_sygnal_refuses_with_sygnals_words() {
        for body in [
            &b"\xff"[..],
            b"",
            b"not json",
            b"{} {}",
            b"[1,",
            b"NaN",
            b"{\"notification\": Infinity}",
            b"\xef\xbb\xbf{}",
        ] {
            assert_eq!(parse(body).expect_err("refused"), Invalid::NotJson);
        }
        for body in [
            json!({}),
            json!({"notification": []}),
            json!({"notification": null}),
            json!(null),
            json!(1),
            json!("notification"),
            json!(["notification"]),
        ] {
            assert_eq!(refused(&body), Invalid::NoNotification);
        }
        for devices in [json!(null), json!({}), json!("x"), json!(1)] {
            assert_eq!(
                refused(&json!({"notification": {"devices": devices}})),
                Invalid::NoDeviceList
            );
        }
        assert_eq!(refused(&json!({"notification": {}})), Invalid::NoDeviceList);
        assert_eq!(
            refused(&json!({"notification": {"devices": []}})),
            Invalid::NoDevices
        );
        for device in [json!(null), json!(1), json!("x"), json!([])] {
            assert_eq!(refused(&with_device(&device)), Invalid::NotADevice);
        }
        for device in [
            json!({}),
            json!({"app_id": 1, "pushkey": "k"}),
            json!({"app_id": null, "pushkey": "k"}),
        ] {
            assert_eq!(refused(&with_device(&device)), Invalid::NoAppId);
        }
        for device in [
            json!({"app_id": "a"}),
            json!({"app_id": "a", "pushkey": 1}),
            json!({"app_id": "a", "pushkey": null}),
        ] {
            assert_eq!(refused(&with_device(&device)), Invalid::NoPushkey);
        }
        for (name, wrong) in [
            ("pushkey_ts", json!("1")),
            ("pushkey_ts", json!(1.5)),
            ("data", json!([])),
            ("data", json!("x")),
            ("tweaks", json!([])),
            ("tweaks", json!(1)),
        ] {
            let mut device = json!({"app_id": "a", "pushkey": "k"});
            device[name] = wrong;
            assert_eq!(refused(&with_device(&device)), Invalid::InvalidType(name));
        }
        let device = json!({"app_id": "a", "pushkey": "k", "tweaks": {"sound": 1}});
        assert_eq!(
            refused(&with_device(&device)),
            Invalid::InvalidType("sound")
        );
        for name in ["unread", "missed_calls"] {
            for wrong in [json!("1"), json!(1.0), json!([]), json!({})] {
                let body = json!({"notification": {"devices": [{"app_id": "a", "pushkey": "k"}], "counts": {name: wrong}}});
                assert_eq!(refused(&body), Invalid::InvalidType(name));
            }
        }
        for wrong in [json!(1), json!(true)] {
            let body = json!({"notification": {"devices": [{"app_id": "a", "pushkey": "k"}], "counts": wrong}});
            assert_eq!(refused(&body), Invalid::InvalidType("counts"));
        }
    }

    #[test]
    fn counts_are_checked_before_devices() {
        let body = json!({"notification": {"devices": [{}], "counts": {"unread": "x"}}});
        assert_eq!(refused(&body), Invalid::InvalidType("unread"));
    }

    #[test]
    fn null_is_accepted_where_the_specification_lets_a_field_be_absent() {
        let body = json!({"notification": {
            "event_id": null, "room_id": null, "type": null, "sender": null, "counts": {"unread": null, "missed_calls": null},
            "devices": [{"app_id": "a", "pushkey": "k", "pushkey_ts": null, "data": null, "tweaks": null}],
        }});
        let request = parse(body.to_string().as_bytes()).expect("accepted");
        assert_eq!(request.notification.unread, None);
        assert!(request.devices[0].data.is_none());
        let body = json!({"notification": {"counts": null, "devices": [{"app_id": "a", "pushkey": "k", "tweaks": {"sound": null}}]}});
        assert!(parse(body.to_string().as_bytes()).is_ok());
    }

    #[test]
    fn what_synapse_sends_is_understood() {
        let body = json!({"notification": {
            "id": "", "type": null, "sender": "", "counts": {"unread": 2},
            "devices": [{"app_id": "a", "pushkey": "k", "pushkey_ts": 42, "data": {"format": "event_id_only"}, "tweaks": {}}],
        }});
        let request = parse(body.to_string().as_bytes()).expect("accepted");
        assert_eq!(request.notification.unread, Some(2));
        assert_eq!(request.notification.event_id(), None);
        assert_eq!(request.devices[0].pushkey_ts, Some(42));
        assert_eq!(request.devices[0].pushkey.expose(), "k");
    }

    #[test]
    fn only_the_word_low_lowers_the_priority() {
        for (prio, expected) in [
            (json!("low"), Priority::Low),
            (json!("high"), Priority::High),
            (json!("LOW"), Priority::High),
            (json!(null), Priority::High),
            (json!(1), Priority::High),
        ] {
            let body = json!({"notification": {"prio": prio, "devices": [{"app_id": "a", "pushkey": "k"}]}});
            assert_eq!(
                parse(body.to_string().as_bytes())
                    .expect("accepted")
                    .notification
                    .priority,
                expected
            );
        }
    }

    #[test]
    fn integers_of_any_size_are_integers() {
        for (number, expected) in [
            ("1", 1),
            ("-3", -3),
            ("99999999999999999999999", i64::MAX),
            ("-99999999999999999999999", i64::MIN),
            ("true", 1),
        ] {
            let body = format!(
                r#"{{"notification":{{"counts":{{"unread":{number}}},"devices":[{{"app_id":"a","pushkey":"k"}}]}}}}"#
            );
            assert_eq!(
                parse(body.as_bytes())
                    .expect("accepted")
                    .notification
                    .unread,
                Some(expected)
            );
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_a_stack_overflow() {
        let body = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(
            parse(body.as_bytes()).expect_err("refused"),
            Invalid::NotJson
        );
    }

    proptest! {
        #[test]
        fn no_body_is_too_odd(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
        }

        #[test]
        fn nearly_a_body_is_taken_or_refused(
            text in r#"\{"notification":\{("(devices|counts|content|prio)":(\[\{"(app_id|pushkey|data|tweaks|pushkey_ts)":("[a-z]{0,3}"|-?[0-9]{1,30}|null|\{\})\}\]|\{"(unread|sound)":-?[0-9.eE+]{1,9}\}|"[^"]{0,5}"|null),?){0,4}\}\}"#
        ) {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn what_is_valid_keeps_every_field(
            ids in proptest::collection::vec(any::<String>(), 3),
            content in any_value(),
            unread in proptest::option::of(any::<i64>()),
            pushkey_ts in proptest::option::of(any::<i64>()),
        ) {
            let request = parse(
                json!({"notification": {
                    "event_id": ids[0], "content": content, "counts": {"unread": unread},
                    "devices": [{"app_id": ids[1], "pushkey": ids[2], "pushkey_ts": pushkey_ts,
                        "data": {"default_payload": content}}],
                }})
                .to_string()
                .as_bytes(),
            )
            .expect("it is valid");
            prop_assert_eq!(request.notification.event_id.as_str(), Some(ids[0].as_str()));
            prop_assert_eq!(request.notification.content.to_string(), content.to_string());
            prop_assert_eq!(request.notification.unread, unread);
            let device = &request.devices[0];
            prop_assert_eq!(&device.app_id, &ids[1]);
            prop_assert_eq!(device.pushkey.expose(), &ids[2]);
            prop_assert_eq!(device.pushkey_ts, pushkey_ts);
            let data = device.data.as_ref().expect("data");
            prop_assert_eq!(data["default_payload"].to_string(), content.to_string());
        }
    }
}
