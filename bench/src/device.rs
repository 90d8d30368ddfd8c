//! The device under test: the gateway or the floor, in a process of its own.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    Kind,
    notifications::APP_ID,
    process::{Cores, Process, Usage},
    providers::{Access, Captured},
};

/// How long a device may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);
const NAP: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The gateway in the mode `opaque`, its default.
    Opaque,
    /// The same, and every device registered keys: each push has a sealed blob.
    Sealed,
    /// The gateway in the mode `sygnal`.
    Sygnal,
    /// The HTTP stack alone.
    Floor,
}

/// A running device.
pub(crate) struct Device {
    process: Process,
    log: PathBuf,
    pub(crate) address: SocketAddr,
}

impl What {
    /// What is measured with this provider. Web Push is sealed anyway.
    pub(crate) const fn all(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Apns | Kind::Fcm => &[Self::Opaque, Self::Sealed, Self::Sygnal, Self::Floor],
            Kind::WebPush => &[Self::Opaque, Self::Sygnal, Self::Floor],
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Opaque => "gateway, opaque",
            Self::Sealed => "gateway, opaque, sealed",
            Self::Sygnal => "gateway, sygnal",
            Self::Floor => "floor",
        }
    }
}

impl Device {
    /// Starts the gateway, with its defaults but for what the stand-ins and the load need.
    pub(crate) fn gateway(
        binary: &Path,
        mode: &str,
        kind: Kind,
        access: &Access,
        directory: &Path,
        cores: &Cores,
    ) -> Result<Self> {
        let address = free_address()?;
        let config = directory.join("push-gateway.yaml");
        fs::write(&config, configuration(mode, kind, access, address))
            .context("write the configuration")?;
        let mut command = Command::new(binary);
        command.arg("push").arg("--config").arg(&config);
        Self::start(&mut command, address, access, directory, cores)
    }

    /// Starts the floor.
    pub(crate) fn floor(
        kind: Kind,
        request: &Captured,
        access: &Access,
        directory: &Path,
        cores: &Cores,
    ) -> Result<Self> {
        let address = free_address()?;
        let file = directory.join("request.json");
        fs::write(&file, serde_json::to_vec(request)?).context("write the request")?;
        let own = std::env::current_exe().context("find this executable")?;
        let provider = match kind {
            Kind::Apns => "apns",
            Kind::Fcm => "fcm",
            Kind::WebPush => "webpush",
        };
        let mut command = Command::new(own);
        command
            .arg("floor")
            .arg(address.to_string())
            .arg(provider)
            .arg(file);
        Self::start(&mut command, address, access, directory, cores)
    }

    fn start(
        command: &mut Command,
        address: SocketAddr,
        access: &Access,
        directory: &Path,
        cores: &Cores,
    ) -> Result<Self> {
        let log = directory.join("device.log");
        let output = File::create(&log).context("create a log")?;
        command
            .env("SSL_CERT_FILE", &access.ca)
            .env_remove("RUST_LOG")
            .env_remove("HTTPS_PROXY");
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let process = cores
            .start_device(command)
            .context("start the device under test")?;
        let mut device = Self {
            process,
            log,
            address,
        };
        let mut waited = Duration::ZERO;
        while TcpStream::connect(address).is_err() {
            let ended = device.process.child().try_wait()?.is_some();
            if ended || waited >= PATIENCE {
                bail!("the device under test does not listen:\n{}", device.log());
            }
            std::thread::sleep(NAP);
            waited += NAP;
        }
        Ok(device)
    }

    /// What it has used up to now.
    pub(crate) fn usage(&self) -> Usage {
        self.process.usage()
    }

    /// What it has written.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// An address where nobody listens.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?)
}

fn configuration(mode: &str, kind: Kind, access: &Access, address: SocketAddr) -> String {
    let app = match kind {
        Kind::Apns => format!(
            "type: apns\n    endpoint: {}\n    keyfile: {}\n    key_id: {}\n    team_id: {}\n    topic: {}",
            access.apple,
            access.apns_key.display(),
            stand_ins::KEY_ID,
            stand_ins::TEAM_ID,
            stand_ins::TOPIC,
        ),
        Kind::Fcm => format!(
            "type: gcm\n    api_version: v1\n    endpoint: {}\n    project_id: {}\n    service_account_file: {}",
            access.google,
            stand_ins::PROJECT_ID,
            access.service_account.display(),
        ),
        Kind::WebPush => format!(
            "type: webpush\n    vapid_private_key: {}\n    vapid_contact_email: admin@example.org",
            access.vapid_key.display(),
        ),
    };
    format!(
        "http:\n  port: {}\n  bind_addresses: [\"127.0.0.1\"]\nlog:\n  level: warn\noutbound:\n  allow_private: \
         [\"127.0.0.0/8\"]\napps:\n  {APP_ID}:\n    {app}\n    payload: {mode}\n    inflight_request_limit: 4096\n",
        address.port()
    )
}
