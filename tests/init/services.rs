//! The two services with the configurations that were written, on ports that are free.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    PATIENCE,
    client::Client,
    folder::{Folder, nocturne},
    process::{Process, free_address},
    programs::program,
    proxies::get,
};

/// A running relay. Dropped: killed.
pub(crate) struct Relay {
    pub(crate) udp: SocketAddr,
    pub(crate) http: SocketAddr,
    child: Child,
}

impl Relay {
    /// With the folder's configuration, but that it listens on loopback, and that clients may reach it.
    pub(crate) async fn start(folder: &Folder) -> Self {
        let (udp, http) = (free_udp_address(), free_address());
        let text = folder.read("turn-relay.yaml");
        let usual = "http:\n  listen: \"127.0.0.1:3480\"\n";
        assert!(text.contains(usual), "{text}");
        let text = text.replace(usual, &format!("http:\n  listen: \"{http}\"\n"));
        folder.write(
            "turn-relay.yaml",
            &format!(
                "{text}listen: {{udp: '{udp}', tcp: [], tls: []}}\npeers: {{allow: 127.0.0.0/8}}\n"
            ),
        );
        let log = File::create(folder.path().with_file_name("relay.log")).expect("there is room");
        let child = nocturne()
            .args(["turn", "--config"])
            .arg(folder.file("turn-relay.yaml"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut relay = Self { udp, http, child };
        let started = tokio::time::timeout(PATIENCE, async {
            while !relay.is_up().await {
                let ended = relay.child.try_wait().expect("it can be asked");
                assert!(ended.is_none(), "{}", log_of(folder));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(started.await.is_ok(), "{}", log_of(folder));
        relay
    }

    async fn is_up(&self) -> bool {
        tokio::net::TcpStream::connect(self.http).await.is_ok()
    }

    /// What a client gets that has a credential which this secret signed.
    pub(crate) fn allocates_with(&self, secret: &str) -> Result<SocketAddr, u16> {
        Client::new(self.udp, secret).allocate()
    }

    /// Reads the configuration again, and waits until it is so.
    pub(crate) async fn reload(&self) {
        let before = self.reloads().await;
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", "HUP", &pid]).status();
        assert!(sent.expect("kill is there").success());
        let reloaded = tokio::time::timeout(PATIENCE, async {
            while self.reloads().await == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        reloaded.await.expect("it reloads");
    }

    async fn reloads(&self) -> String {
        let metrics = get(self.http, "/metrics").await.text();
        let counts: Vec<_> = metrics
            .lines()
            .filter(|line| line.starts_with("nocturne_turn_") && line.contains("reloads_total"))
            .collect();
        assert_eq!(counts.len(), 2, "{metrics}");
        let failed = counts.iter().find(|line| line.contains("failed"));
        assert!(
            failed.is_some_and(|line| line.ends_with(" 0")),
            "{counts:?}"
        );
        counts.join("\n")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(folder: &Folder) -> String {
    std::fs::read_to_string(folder.path().with_file_name("relay.log")).unwrap_or_default()
}

/// A running push gateway, with the folder's configuration but for the port.
pub(crate) async fn start_gateway(folder: &Folder) -> (SocketAddr, Process) {
    let address = free_address();
    let text = folder.read("push-gateway.yaml");
    assert!(text.contains("  port: 5000\n"), "{text}");
    folder.write(
        "push-gateway.yaml",
        &text.replace("  port: 5000\n", &format!("  port: {}\n", address.port())),
    );
    let mut command = nocturne();
    command
        .args(["push", "--config"])
        .arg(folder.file("push-gateway.yaml"));
    let outer = folder.path().with_file_name("");
    let mut process = Process::start("nocturne-push", &mut command, &outer);
    process.wait_until_ready(address, "/health").await;
    (address, process)
}

/// With a port that the relay has for no peer.
fn free_udp_address() -> SocketAddr {
    let mut candidates = std::iter::repeat_with(free_address);
    candidates
        .find(|address| UdpSocket::bind(address).is_ok())
        .expect("loopback has free ports")
}

#[tokio::test]
async fn both_services_start_with_what_was_written() {
    let folder = Folder::made();
    let relay = Relay::start(&folder).await;
    let (gateway, _process) = start_gateway(&folder).await;
    relay
        .allocates_with(&folder.secrets()[0])
        .expect("the secret is good");
    assert_eq!(
        relay.allocates_with("another secret, long enough"),
        Err(401)
    );
    let keys = get(gateway, "/_nocturne/v1/keys").await;
    assert_eq!(keys.json()["keys"].as_array().map(Vec::len), Some(1));
    let discovery = get(gateway, "/_matrix/push/v1/notify").await;
    assert_eq!(discovery.json()["unifiedpush"]["gateway"], "matrix");
}

/// Nothing is changed in the files, so that the usual ports are asked for: in a network of their own, where
/// they are free.
#[test]
fn both_services_start_with_every_byte_that_was_written() {
    let Some(unshare) = program("unshare", "util-linux") else {
        return;
    };
    let folder = Folder::made();
    for (subcommand, file, listening) in [
        ("turn", "turn-relay.yaml", "0.0.0.0:3478"),
        ("push", "push-gateway.yaml", "127.0.0.1:5000"),
    ] {
        let line = format!(
            "ip link set lo up && exec {} {subcommand} --config {}",
            env!("CARGO_BIN_EXE_nocturne"),
            folder.file(file).display()
        );
        let mut child = Command::new(&unshare)
            .args(["--user", "--map-root-user", "--net", "sh", "-c", &line])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut said = Vec::new();
        let is_up = stderr.lines().map_while(Result::ok).any(|line| {
            said.push(line);
            said.last().is_some_and(|line| {
                line.contains("\"listening\"") && line.contains(&format!("\"{listening}\""))
            })
        });
        let _ = child.kill();
        let _ = child.wait();
        let said = said.join("\n");
        if !is_up && !said.contains('{') {
            eprintln!("skipped: no network of its own can be had here: {said}");
            return;
        }
        assert!(is_up, "{subcommand}:\n{said}");
    }
}
