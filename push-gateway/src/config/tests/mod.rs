//! Whole files, as people write them.

mod broken;
mod environment;
mod example;
mod mutated;
mod samples;

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
};
use shared::{environment::Environment, yaml::Diagnostics};

use super::{
    Config, Loaded,
    load::{config_of_text, finish},
};

/// When the tests take place: 2026-01-01.
pub(super) const NOW: Duration = Duration::from_hours(490_896);

/// The user ID of the test certificates.
const UID: &str = "im.example.certificate";

/// A folder with every kind of key file.
pub(super) struct Fixture(tempfile::TempDir);

impl Fixture {
    pub(super) fn new() -> Self {
        let fixture = Self(tempfile::tempdir().expect("a folder for the test"));
        let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("key");
        fixture.write("apns.p8", &p256.serialize_pem());
        fixture.write("p384.p8", &p384.serialize_pem());
        fixture.write("vapid.pem", &p256.serialize_pem());
        fixture.write("key.b64", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n");
        fixture.write("service-account.json", &service_account(rsa_key()));

        let certificate = certificate(&p256, Some(UID), 365);
        fixture.write("apns.pem", &(certificate.clone() + &p256.serialize_pem()));
        fixture.write("without-key.pem", &certificate);
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
        fixture.write("other-key.pem", &(certificate + &other.serialize_pem()));
        let file = |uid, days| self::certificate(&p256, uid, days) + &p256.serialize_pem();
        fixture.write("without-uid.pem", &file(None, 365));
        fixture.write("expired.pem", &file(Some(UID), -1));
        fixture.write("expires-soon.pem", &file(Some(UID), 10));
        fixture.write("empty.pem", "");
        fixture
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file that its owner alone may read.
    pub(super) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).expect("write a file of the test");
        set_mode(&path, 0o600);
        path
    }

    /// Loads a text as the file `f.yaml`; `DIR` in it stands for the folder.
    pub(super) fn load(&self, text: &str) -> Loaded {
        self.load_with(text, &Environment::default())
    }

    /// Loads a text that has to be in order.
    pub(super) fn config(&self, text: &str) -> Config {
        let loaded = self.load(text);
        assert_eq!(loaded.errors, Vec::<String>::new());
        loaded.config.expect("no error")
    }

    pub(super) fn load_with(&self, text: &str, environment: &Environment) -> Loaded {
        let text = text.replace("DIR", &self.path().display().to_string());
        let diagnostics = Diagnostics::new("f.yaml");
        let config = config_of_text(
            &text,
            Path::new("f.yaml"),
            environment,
            SystemTime::UNIX_EPOCH + NOW,
            &diagnostics,
        );
        finish(config, &diagnostics)
    }
}

#[cfg(unix)]
pub(super) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;

    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// A self-signed certificate that ends so many days after [`NOW`].
fn certificate(key: &KeyPair, uid: Option<&str>, days: i64) -> String {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "Apple Push Services: test");
    if let Some(uid) = uid {
        let user_id = DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]);
        name.push(user_id, uid);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    let now = rcgen::date_time_ymd(2026, 1, 1);
    let day = Duration::from_hours(24);
    params.not_before = now - 400 * day;
    params.not_after = match u32::try_from(days) {
        Ok(days) => now + days * day,
        Err(_) => now - u32::try_from(-days).expect("days") * day,
    };
    params.self_signed(key).expect("certificate").pem()
}

pub(super) fn service_account(key: &str) -> String {
    serde_json::json!({
        "type": "service_account",
        "project_id": "example-project",
        "private_key_id": "0123456789abcdef",
        "private_key": key,
        "client_email": "push@example-project.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    })
    .to_string()
}

/// An RSA key, made once: that takes a while.
fn rsa_key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| {
        KeyPair::generate_for(&PKCS_RSA_SHA256)
            .expect("key")
            .serialize_pem()
    })
}
