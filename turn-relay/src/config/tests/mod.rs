//! Whole files, as people write them.

mod broken;
mod dtls;
mod environment;
mod example;
mod mutated;
mod reports;
mod samples;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair};
use shared::{environment::Environment, yaml::Diagnostics};

use super::{
    Config, Loaded,
    load::{config_of_text, finish},
};

/// When the tests take place: 2026-01-01.
pub(super) const NOW: Duration = Duration::from_hours(490_896);

/// The least that a file needs, on lines 1 to 3.
const LEAST: &str = "\
realm: turn.example.org
secrets: [kPlaXzQyVqFhMEUwbzcx]
tls: {certificate: DIR/fullchain.pem, key: DIR/key.pem}
";

/// A folder with certificates and keys.
pub(super) struct Fixture(tempfile::TempDir);

impl Fixture {
    pub(super) fn new() -> Self {
        let fixture = Self(tempfile::tempdir().expect("a folder for the test"));
        let key = KeyPair::generate().expect("key");
        fixture.write("key.pem", &key.serialize_pem());
        let other = KeyPair::generate().expect("key");
        fixture.write("other-key.pem", &other.serialize_pem());
        for (name, days) in [
            ("fullchain.pem", 90),
            ("expired.pem", -1),
            ("expires-soon.pem", 10),
        ] {
            fixture.write(name, &certificate(&key, days));
        }
        fixture.write("empty.pem", "");
        fixture
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file that its owner alone may read.
    pub(super) fn write(&self, name: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;

        let path = self.path().join(name);
        std::fs::write(&path, content).expect("write a file of the test");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        path
    }

    /// Loads a text as the file `f.yaml`; `DIR` in it stands for the folder.
    pub(super) fn load(&self, text: &str) -> Loaded {
        self.load_with(text, &Environment::default())
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

    /// Loads a text that has to be in order.
    pub(super) fn config(&self, text: &str) -> Config {
        let loaded = self.load(text);
        assert_eq!(loaded.errors, Vec::<String>::new());
        loaded.config.expect("no error")
    }
}

/// A self-signed certificate for `turn.example.org` that ends so many days after [`NOW`].
fn certificate(key: &KeyPair, days: i64) -> String {
    let mut params =
        CertificateParams::new(vec!["turn.example.org".to_owned()]).expect("a host name");
    let now = rcgen::date_time_ymd(2026, 1, 1);
    let day = Duration::from_hours(24);
    params.not_before = now - 400 * day;
    params.not_after = match u32::try_from(days) {
        Ok(days) => now + days * day,
        Err(_) => now - u32::try_from(-days).expect("days") * day,
    };
    params.self_signed(key).expect("certificate").pem()
}
