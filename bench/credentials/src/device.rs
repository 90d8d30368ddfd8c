//! The device under test: the real `nocturne turn`, with a relay that nobody uses.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use shared::environment::Environment;
use tempfile::TempDir;

use crate::{
    homeserver::Homeserver,
    process::{Cores, Process, Usage},
};

pub(crate) const API_KEY: &str = "0123456789abcdef0123456789abcdef";

/// A running `nocturne turn`; it ends when this is dropped.
pub(crate) struct Device {
    /// Where it serves HTTP.
    pub(crate) address: SocketAddr,
    process: Process,
    directory: TempDir,
}

impl Device {
    pub(crate) fn start(nocturne: &Path, homeserver: &Homeserver, cores: &Cores) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a temporary folder")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let configuration = directory.path().join("turn-relay.yaml");
        fs::write(
            &configuration,
            format!(
                "realm: turn.example.org
secrets: kPlaXzQyVqFhMEUwbzcx
listen: {{udp: '127.0.0.1:0', tcp: [], tls: []}}
relay: {{addresses: 127.0.0.1}}
http: {{listen: '{address}'}}
credentials: {{homeserver: 'http://{}', api_keys: {API_KEY}}}
log: {{level: warn}}
",
                homeserver.address
            ),
        )?;
        let log = fs::File::create(directory.path().join("log"))?;
        let mut command = Command::new(nocturne);
        command
            .args(["turn", "--config"])
            .arg(&configuration)
            .env_clear()
            .stdin(Stdio::null())
            .stderr(log);
        let process = cores
            .start_device(&mut command)
            .with_context(|| format!("start {}", nocturne.display()))?;
        let device = Self {
            address,
            process,
            directory,
        };
        for _ in 0..200 {
            if TcpStream::connect(address).is_ok() {
                return Ok(device);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the device does not come up: {}", device.log())
    }

    pub(crate) fn usage(&self) -> Usage {
        self.process.usage()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// The `nocturne` beside this executable. Started by cargo, it is brought up to date first.
pub(crate) fn built(environment: &Environment) -> Result<PathBuf> {
    let how = if cfg!(debug_assertions) {
        "cargo build"
    } else {
        "cargo build --release"
    };
    if let Some(cargo) = environment.get("CARGO") {
        let mut build = Command::new(cargo);
        build
            .args(how.split(' ').skip(1))
            .args(["--quiet", "--bin=nocturne"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        let status = build.status().with_context(|| format!("start `{how}`"))?;
        if !status.success() {
            bail!("nocturne could not be built: see above, and try `{how}`");
        }
    }
    let own = std::env::current_exe().context("find this executable")?;
    let nocturne = own.with_file_name(format!("nocturne{}", std::env::consts::EXE_SUFFIX));
    if !nocturne.exists() {
        bail!(
            "{} is not there: build it with `{how}`, or name another with --nocturne FILE",
            nocturne.display()
        );
    }
    Ok(nocturne)
}
