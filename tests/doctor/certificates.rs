//! What can be wrong with a certificate.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use shared::clock::Clock;

use crate::harness::{Installation, write};

const DAY: Duration = Duration::from_hours(24);

/// An authority of this name.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(organisation: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// A certificate for `name`, with its key.
    fn issue(&self, name: &str, until: SystemTime) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = (until - 90 * DAY).into();
        params.not_after = until.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn now() -> SystemTime {
    Clock::system().wall()
}

/// A running relay with this certificate, by an authority that is known.
fn serving(authority: &Authority, name: &str, until: SystemTime) -> Installation {
    let (certificate, key) = authority.issue(name, until);
    Installation::new()
        .with_certificate(&certificate, &key, &authority.0.pem())
        .started()
}

#[test]
fn an_expired_certificate() {
    let authority = Authority::new("an authority");
    let report = serving(&authority, "localhost", now() - DAY).examine(&[]);
    report.assert_fails("certificates", "localhost", "expired on", "renew");
    report.assert_fails("turn", "turns:", "there is no TLS", "see Certificates");
    report.assert_says("turn", "turn:localhost", "good", "a packet goes through");
}

#[test]
fn a_certificate_that_expires_soon() {
    let authority = Authority::new("an authority");
    let report = serving(&authority, "localhost", now() + 3 * DAY + DAY / 2).examine(&[]);
    report.assert_says("certificates", "localhost", "warning", "expires in 3 days");
    report.assert_says("certificates", "localhost", "good", "take the certificate");
    assert_eq!(report.code, 0, "{:#}", report.whole);
}

#[test]
fn a_certificate_for_others() {
    let authority = Authority::new("an authority");
    let report = serving(&authority, "turn.example.org", now() + 60 * DAY).examine(&[]);
    report.assert_fails(
        "certificates",
        "localhost",
        "is for turn.example.org, and not for localhost",
        "get one for localhost",
    );
    report.assert_fails("turn", "turns:", "there is no TLS", "see Certificates");
}

#[test]
fn a_certificate_of_an_unknown_authority() {
    let (known, unknown) = (Authority::new("an authority"), Authority::new("another"));
    let (certificate, key) = unknown.issue("localhost", now() + 60 * DAY);
    let report = Installation::new()
        .with_certificate(&certificate, &key, &known.0.pem())
        .started()
        .examine(&[]);
    report.assert_fails(
        "certificates",
        "localhost",
        "does not end at an authority",
        "fullchain.pem",
    );
}

#[test]
fn lets_encrypt_is_good_for_browsers_and_warned_of_for_phones() {
    let authority = Authority::new("Let's Encrypt");
    let report = serving(&authority, "localhost", now() + 60 * DAY).examine(&[]);
    report.assert_says("certificates", "localhost", "good", "take the certificate");
    report.assert_says("certificates", "localhost", "warning", "Let's Encrypt");
    assert_eq!(report.code, 0);
}

#[test]
fn another_certificate_is_served_than_the_files_have() {
    let authority = Authority::new("an authority");
    let mut installation = serving(&authority, "localhost", now() + 60 * DAY);
    let (certificate, key) = authority.issue("localhost", now() + 60 * DAY);
    let [certificate_file, key_file] =
        ["new.pem", "new-key.pem"].map(|name| installation.path(name));
    write(&certificate_file, &certificate);
    write(&key_file, &key);
    // the relay does not know of the new files before it is reloaded
    installation.change(&json!({"tls": {"certificate": certificate_file, "key": key_file}}));
    let report = installation.examine(&[]);
    report.assert_says(
        "certificates",
        "localhost",
        "warning",
        "another certificate is served",
    );
}
