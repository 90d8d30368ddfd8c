//! Two machines and a cable between them: two network namespaces, one for the relay and one for its clients.
//!
//! A namespace lives as long as a process in it. The one that holds it ends when the test does, in whatever way, since
//! its standard input is a pipe from the test.

use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::geteuid;

use crate::requirements::{program, skip};

const RELAY: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 66, 0, 1),
    Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, 1),
);
const CLIENT: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 66, 0, 2),
    Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, 2),
);

/// The two namespaces; they are gone when this is dropped.
pub(crate) struct Network {
    relay: Namespace,
    client: Namespace,
}

struct Namespace {
    holder: Child,
}

impl Network {
    /// Makes both and connects them, or skips the test where that is not permitted.
    pub(crate) fn make() -> Option<Self> {
        let unshare = program(&["unshare"], "util-linux")?;
        let ip = program(&["ip"], "iproute2")?;

        let mut first = Command::new(&unshare);
        if !geteuid().is_root() {
            first.arg("--map-root-user");
        }
        let relay = Namespace::hold(first)?;
        let client = Namespace::hold(relay.command(&unshare))?;
        let network = Self { relay, client };

        let client_id = network.client.holder.id().to_string();
        let cable = "link add relay0 type veth peer name client0 netns";
        set_up(&network.relay, &ip, &format!("{cable} {client_id}"))?;
        for (namespace, device, (ipv4, ipv6)) in [
            (&network.relay, "relay0", RELAY),
            (&network.client, "client0", CLIENT),
        ] {
            set_up(namespace, &ip, "link set lo up")?;
            set_up(namespace, &ip, &format!("addr add {ipv4}/24 dev {device}"))?;
            set_up(
                namespace,
                &ip,
                &format!("addr add {ipv6}/64 dev {device} nodad"),
            )?;
            set_up(namespace, &ip, &format!("link set {device} up"))?;
        }
        // browsers look for the address that leads to the internet
        let (ipv4, ipv6) = RELAY;
        set_up(
            &network.client,
            &ip,
            &format!("route add default via {ipv4}"),
        )?;
        set_up(
            &network.client,
            &ip,
            &format!("-6 route add default via {ipv6}"),
        )?;
        Some(network)
    }

    /// The relay's addresses.
    pub(crate) fn relay_addresses() -> [IpAddr; 2] {
        [RELAY.0.into(), RELAY.1.into()]
    }

    /// A command that runs where the relay is.
    pub(crate) fn at_relay(&self, program: &Path) -> Command {
        self.relay.command(program)
    }

    /// A command that runs where the clients are.
    pub(crate) fn at_client(&self, program: &Path) -> Command {
        self.client.command(program)
    }
}

impl Namespace {
    fn hold(mut unshare: Command) -> Option<Self> {
        let mut holder = unshare
            .args(["--net", "sh", "-c", "echo there; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed");
        let mut line = String::new();
        let output = holder.stdout.take().expect("the output is a pipe");
        let namespace = Self { holder };
        let read = BufReader::new(output).read_line(&mut line);
        if read.is_err() || line != "there\n" {
            skip("network namespaces are not permitted here");
            return None;
        }
        Some(namespace)
    }

    /// A command in this namespace. Its process is the program's own.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net"]);
        if !geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn set_up(namespace: &Namespace, ip: &Path, arguments: &str) -> Option<()> {
    let output = namespace
        .command(ip)
        .args(arguments.split(' '))
        .output()
        .expect("nsenter is installed");
    if output.status.success() {
        return Some(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    skip(format_args!("ip {arguments}: {}", error.trim()));
    None
}
