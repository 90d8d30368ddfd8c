//! Sealed pushkeys (spec/opaque-push.md §7).

use aws_lc_rs::digest::{SHA256, digest};
use push_gateway::sealed::pushkey::{CannotOpen, PushkeyKey, PushkeyKeys};
use serde_json::{Value, json};
use shared::random::Random;

use crate::{APP_ID, base64url, hpke};

const INFO: &[u8] = b"nocturne pushkey v1";
/// Base64, as iOS apps register it.
const APNS_TOKEN: &str = "Xl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl4=";
const FCM_TOKEN: &str = "bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1-Example-_token";

pub(crate) fn vectors() -> Value {
    let random = Random::seeded(301);
    let [newest, older, retired]: [[u8; 32]; 3] = [(); 3].map(|()| random.bytes());
    let gateway = PushkeyKeys::new(keys([&newest, &older])).unwrap();
    let seal = |private: &[u8; 32], ephemeral: &[u8; 32], app_id: &str, token: &str| {
        let public = *PushkeyKey::new(private).unwrap().public();
        pushkey(&public, ephemeral, app_id, &plaintext(token, 256))
    };

    let good = [
        (
            "an APNs token, to the newest key",
            &newest,
            APP_ID,
            APNS_TOKEN.to_owned(),
        ),
        ("an FCM token", &newest, APP_ID, FCM_TOKEN.to_owned()),
        (
            "to an older key that the gateway still has",
            &older,
            APP_ID,
            FCM_TOKEN.to_owned(),
        ),
        (
            "for another app",
            &newest,
            "org.example.app.ios.dev",
            APNS_TOKEN.to_owned(),
        ),
        (
            "a token that is not ASCII",
            &newest,
            "org.example.ä",
            "Grüße 🌙".to_owned(),
        ),
        ("the longest token", &newest, APP_ID, "x".repeat(254)),
        ("an empty token", &newest, APP_ID, String::new()),
    ]
    .map(|(comment, private, app_id, token)| {
        let ephemeral: [u8; 32] = random.bytes();
        let sealed = seal(private, &ephemeral, app_id, &token);
        assert_eq!(sealed.len(), 411, "one length, whatever the token");
        assert_eq!(gateway.open(app_id, &sealed), Ok(Some(token.clone())));
        json!({
            "comment": comment,
            "public_key": base64url(PushkeyKey::new(private).unwrap().public()),
            "app_id": app_id,
            "token": token,
            "ephemeral_private_key": base64url(&ephemeral),
            "pushkey": sealed,
        })
    });

    let ephemeral: [u8; 32] = random.bytes();
    let sealed = seal(&newest, &ephemeral, APP_ID, FCM_TOKEN);
    let with = |place: usize, letter: &str| {
        let mut sealed = sealed.clone();
        sealed.replace_range(place..=place, letter);
        sealed
    };
    let lying_length = {
        let public = *PushkeyKey::new(&newest).unwrap().public();
        let mut plaintext = plaintext(FCM_TOKEN, 256);
        plaintext[0] = 0xff;
        pushkey(&public, &ephemeral, APP_ID, &plaintext)
    };
    let broken = [
        ("for another app than it says", CannotOpen::Authentication, "org.example.other", sealed.clone()),
        ("to a key that the gateway does not have any more", CannotOpen::UnknownKey, APP_ID, seal(&retired, &ephemeral, APP_ID, FCM_TOKEN)),
        ("one letter changed", CannotOpen::Authentication, APP_ID, with(300, if sealed.as_bytes()[300] == b'A' { "B" } else { "A" })),
        ("cut off", CannotOpen::Authentication, APP_ID, sealed[..sealed.len() - 4].to_owned()),
        ("nothing after the prefix", CannotOpen::Malformed, APP_ID, "nk1.".to_owned()),
        ("not base64url", CannotOpen::Malformed, APP_ID, with(100, "!")),
        ("longer than a pushkey may be", CannotOpen::Malformed, APP_ID, format!("{sealed}{}", "A".repeat(102))),
        ("a length that leads out of the plaintext", CannotOpen::Malformed, APP_ID, lying_length),
    ]
    .map(|(comment, problem, app_id, pushkey)| {
        assert_eq!(gateway.open(app_id, &pushkey), Err(problem), "{comment}");
        json!({ "comment": comment, "problem": problem.label(), "app_id": app_id, "pushkey": pushkey })
    });

    json!({
        "gateway_private_keys": [base64url(&newest), base64url(&older)],
        "gateway_keys": listed(&gateway),
        "info": std::str::from_utf8(INFO).unwrap(),
        "sealed": good,
        "broken": broken,
        "too_long_token": "x".repeat(255),
        "unusable_gateway_keys": unusable(&newest),
    })
}

/// What `GET /_nocturne/v1/keys` answers.
fn listed(keys: &PushkeyKeys) -> Value {
    let keys: Vec<_> = keys
        .iter()
        .map(|key| entry(key.id().into(), key.public()))
        .collect();
    json!({ "keys": keys })
}

fn entry(id: u64, key: &[u8]) -> Value {
    json!({ "id": id, "alg": "x25519", "key": base64url(key), "not_after": null })
}

/// Answers that there is nothing to seal to in.
fn unusable(private: &[u8; 32]) -> Value {
    let key = PushkeyKey::new(private).unwrap();
    let (id, public) = (u64::from(key.id()), key.public());
    let mut of_other_kind = entry(id, public);
    of_other_kind["alg"] = "x448".into();
    let mut expired = entry(id, public);
    expired["not_after"] = 1_600_000_000.into();
    json!([
        { "comment": "the gateway has no keys", "answer": { "keys": [] } },
        { "comment": "of an algorithm of later", "answer": { "keys": [of_other_kind] } },
        { "comment": "31 bytes", "answer": { "keys": [entry(id, &public[..31])] } },
        { "comment": "an ID that is not the key's", "answer": { "keys": [entry(id ^ 1, public)] } },
        { "comment": "expired in 2020", "answer": { "keys": [expired] } },
        {
            "comment": "a point of small order, with which every secret would be the same",
            "answer": { "keys": [entry(u64::from(digest(&SHA256, &[0; 32]).as_ref()[0]), &[0; 32])] },
        },
        { "comment": "not the gateway's answer at all", "answer": { "errcode": "M_UNRECOGNIZED" } },
    ])
}

fn keys<const N: usize>(private: [&[u8; 32]; N]) -> Vec<PushkeyKey> {
    private
        .iter()
        .map(|private| PushkeyKey::new(private).unwrap())
        .collect()
}

/// `len16(token) ‖ token ‖ zeros`
fn plaintext(token: &str, size: usize) -> Vec<u8> {
    let length = u16::try_from(token.len()).unwrap();
    let mut plaintext = [&length.to_be_bytes(), token.as_bytes()].concat();
    plaintext.resize(size, 0);
    plaintext
}

fn pushkey(public: &[u8; 32], ephemeral: &[u8; 32], app_id: &str, plaintext: &[u8]) -> String {
    let (enc, ciphertext) = hpke::seal(
        ephemeral,
        public,
        INFO,
        app_id.as_bytes(),
        plaintext.to_vec(),
    );
    let key_id = digest(&SHA256, public).as_ref()[0];
    let sealed = [&[key_id], &enc[..], &ciphertext].concat();
    format!("nk1.{}", base64url(&sealed))
}
