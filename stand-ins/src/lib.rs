//! Stand-ins for Apple, Google and a browser push service that behave as the real ones are
//! documented to: over real TLS and HTTP/2, on loopback, with real signatures checked.
//!
//! They serve `nocturne demo`, the end-to-end tests and the benchmark. Nothing here knows the
//! gateway's code: what a provider demands is written down a second time, from the providers' own
//! documentation, so that a misreading on one side shows.
//!
//! [`StandIns::start`] starts one of each, with one certificate authority that signs for all of
//! them; [`StandIns::write_files`] writes what a gateway's configuration names. All three servers
//! are a [`Server`] with checks of their own; what they received is in [`Server::seen`], and
//! [`Server::script`] makes them fail on purpose. Everything ends when it is dropped. The app on the
//! device is here, too: [`DeviceKeys`], [`TagSecret`] and [`seal_pushkey`].

mod apple;
mod authority;
mod client_server;
mod device_keys;
mod google;
mod jwt;
mod keys;
mod opaque_push;
mod proxy;
mod push_service;
mod reply;
mod server;
mod support;

pub mod homeserver;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

pub use apple::Apple;
pub use authority::{Authority, Identity};
pub use client_server::ClientServer;
pub use device_keys::{CannotOpen, DeviceKeys};
pub use google::Google;
pub use keys::{ApnsKey, ServiceAccount, VapidKey};
pub use opaque_push::{TagSecret, seal_pushkey};
pub use proxy::{Proxy, Tunnel};
pub use push_service::{PushService, Subscription};
pub use reply::{Reply, Then};
pub use server::{Connections, Seen, Server};

/// The Apple team that [`Apple::key`] belongs to.
pub const TEAM_ID: &str = "NOCTURNE01";
/// The identifier of [`Apple::key`].
pub const KEY_ID: &str = "STANDIN001";
/// The app that [`Apple`] knows from the start.
pub const TOPIC: &str = "org.example.app";
/// The Google project that [`Google`] knows from the start.
pub const PROJECT_ID: &str = "nocturne-example";

/// One of each, and the authority that signed their certificates.
#[derive(Debug)]
pub struct StandIns {
    /// Who signed the servers' certificates.
    pub authority: Authority,
    /// Apple's push service.
    pub apple: Apple,
    /// Google's push service and its OAuth server.
    pub google: Google,
    /// A browser's push service, which is a UnifiedPush server, too.
    pub push_service: PushService,
}

/// The files that [`StandIns::write_files`] wrote.
#[derive(Clone, Debug)]
pub struct Files {
    /// The authority's certificate: the value of `SSL_CERT_FILE`.
    pub ca: PathBuf,
    /// `keyfile` of an APNs app: the key with [`KEY_ID`], as Apple hands out `.p8` files.
    pub apns_key: PathBuf,
    /// `certfile` of an APNs app: certificate for [`TOPIC`] and private key in one PEM file.
    pub apns_certificate: PathBuf,
    /// `service_account_file` of an FCM app; its `token_uri` leads to [`Google`].
    pub service_account: PathBuf,
    /// `vapid_private_key` of a Web Push app.
    pub vapid_key: PathBuf,
}

impl StandIns {
    /// Starts them on free loopback ports.
    pub async fn start() -> io::Result<Self> {
        let authority = Authority::new()?;
        Ok(Self {
            apple: Apple::start(&authority).await?,
            google: Google::start(&authority).await?,
            push_service: PushService::start(&authority).await?,
            authority,
        })
    }

    /// Writes certificates and keys for a gateway into an existing directory; what is secret has
    /// mode 0600.
    pub fn write_files(&self, directory: &Path) -> io::Result<Files> {
        let year = Duration::from_hours(365 * 24);
        let certificate = self
            .authority
            .client_identity(TOPIC, support::wall() + year)?;
        let files = Files {
            ca: directory.join("ca.pem"),
            apns_key: directory.join("apns.p8"),
            apns_certificate: directory.join("apns-certificate.pem"),
            service_account: directory.join("service-account.json"),
            vapid_key: directory.join("vapid.pem"),
        };
        fs::write(&files.ca, self.authority.pem())?;
        write_secret(&files.apns_key, self.apple.key().pem())?;
        write_secret(&files.apns_certificate, &certificate.pem())?;
        write_secret(&files.service_account, &self.google.service_account_json())?;
        write_secret(&files.vapid_key, VapidKey::generate()?.pem())?;
        Ok(files)
    }
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Whole seconds since 1970.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
