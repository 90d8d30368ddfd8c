//! Namespaces, the links between them, and who is in them.
//!
//! ```text
//!              internet (routes everything)
//!            .1 │     │ .1       │ .1
//!   5.0.1.0/24  │     │ 5.0.2.0/24   …      and 2a00:5:N::/64 each
//!            .2 │     │ .2       │ .2
//!             host   host       host
//! ```
//!
//! The addresses are public ones, since others are no peers; nothing leads out of these namespaces.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    panic,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    client::{Client, Peer},
    time::{PATIENCE, eventually, now},
    wire,
};

/// A network namespace. It ends with its last clone, socket and process.
#[derive(Clone, Debug)]
pub(crate) struct Namespace(Arc<File>);

impl Namespace {
    /// Makes one with a loopback interface.
    ///
    /// # Errors
    ///
    /// Why this machine or this user has none.
    fn new() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // the first one mounts the folder of names
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("nocturne-{}-{number}", std::process::id());
        let file = {
            let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            run("ip", &["netns", "add", &name], "")?;
            let file = File::open(format!("/run/netns/{name}"));
            run("ip", &["netns", "del", &name], "")?;
            file.map_err(|error| format!("/run/netns/{name} cannot be opened: {error}"))?
        };
        let namespace = Self(Arc::new(file));
        namespace.try_ip("link set lo up")?;
        Ok(namespace)
    }

    /// Does something on a thread that is in the namespace. Sockets and processes that are made there stay there.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let within = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        let result = thread::scope(|scope| scope.spawn(within).join());
        result.unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Commands of `ip`, one a line.
    pub(crate) fn ip(&self, commands: &str) {
        self.try_ip(commands).unwrap();
    }

    fn try_ip(&self, commands: &str) -> Result<(), String> {
        self.inside(|| run("ip", &["-batch", "-"], commands))
    }

    /// A setting of the namespace's network, such as `ipv4/ip_forward`.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.inside(|| fs::write(format!("/proc/sys/net/{name}"), value).unwrap());
    }

    /// Rules of `iptables`, one a line; false, with a word about it, where there is none.
    pub(crate) fn iptables(&self, rules: &str) -> bool {
        for rule in rules.lines() {
            let arguments: Vec<_> = rule.split_whitespace().collect();
            if let Err(problem) = self.inside(|| run("iptables", &arguments, "")) {
                eprintln!("skipped: {problem}");
                return false;
            }
        }
        true
    }

    /// What other processes find the namespace by, as long as this one lives.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// A link between two namespaces, with the names of its ends.
    pub(crate) fn link(&self, name: &str, other: &Self, other_name: &str) {
        let path = other.path();
        self.ip(&format!(
            "link add {name} type veth peer name {other_name} netns {path}\nlink set {name} up"
        ));
        other.ip(&format!("link set {other_name} up"));
    }
}

/// Runs a command to its end; its complaints if it fails.
fn run(command: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let told = format!("{command} {}", arguments.join(" "));
    let started = Command::new(command)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.map_err(|error| format!("`{told}`: {error}"))?;
    // it may end without reading
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(format!("`{told}` {input:?}: {}", complaint.trim()))
    }
}

/// The internet.
pub(crate) struct Network {
    pub(crate) internet: Namespace,
}

/// Somebody who is on the internet.
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Network {
    /// None, with a word about it, where there are no namespaces.
    pub(crate) fn new() -> Option<Self> {
        let made = Namespace::new().and_then(|internet| {
            // whether there are links at all
            internet.try_ip("link add try type veth peer name try2\nlink del try")?;
            Ok(internet)
        });
        match made {
            Ok(internet) => {
                internet.set("ipv4/ip_forward", "1");
                internet.set("ipv6/conf/all/forwarding", "1");
                // no error is held back because there was another one a moment ago
                internet.set("ipv4/icmp_ratelimit", "0");
                internet.set("ipv6/icmp/ratelimit", "0");
                Some(Self { internet })
            }
            Err(problem) => {
                eprintln!("skipped: network namespaces need root and Linux with veth: {problem}");
                None
            }
        }
    }

    /// A host with the addresses of network `number`, and a way to everywhere.
    pub(crate) fn host(&self, number: u8) -> Host {
        let namespace = Namespace::new().unwrap();
        namespace.set("ipv4/icmp_ratelimit", "0");
        namespace.set("ipv6/icmp/ratelimit", "0");
        namespace.set("ipv6/conf/default/accept_dad", "0");
        namespace.link("eth0", &self.internet, &format!("to{number}"));
        let host = Host {
            namespace,
            v4: Ipv4Addr::new(5, 0, number, 2),
            v6: Ipv6Addr::new(0x2a00, 5, number.into(), 0, 0, 0, 0, 2),
        };
        self.internet.ip(&format!(
            "addr add 5.0.{number}.1/24 dev to{number}
             addr add 2a00:5:{number:x}::1/64 dev to{number} nodad"
        ));
        host.namespace.ip(&format!(
            "addr add {}/24 dev eth0
             addr add {}/64 dev eth0 nodad
             route add default via 5.0.{number}.1
             route add default via 2a00:5:{number:x}::1",
            host.v4, host.v6
        ));
        assert!(
            eventually(|| host.has_link_local_address()),
            "the link comes up"
        );
        host
    }

    /// A host at a private address, which the internet has a way to all the same.
    pub(crate) fn private_host(&self, number: u8, address: Ipv4Addr, router: Ipv4Addr) -> Host {
        let host = self.host(number);
        self.internet
            .ip(&format!("addr add {router}/24 dev to{number}"));
        host.namespace.ip(&format!(
            "addr add {address}/24 dev eth0
             route replace default via {router} src {address}
             addr del {}/24 dev eth0",
            host.v4
        ));
        Host {
            v4: address,
            ..host
        }
    }
}

impl Host {
    /// Whether it has the address that comes by itself, some time after the link does.
    fn has_link_local_address(&self) -> bool {
        let read = || fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        let addresses = self.namespace.inside(read);
        addresses.lines().any(|line| line.starts_with("fe80"))
    }

    /// A TURN client over UDP, at the address that its system chooses.
    pub(crate) fn udp_client(&self, relay: impl Into<SocketAddr>) -> Client {
        let relay = relay.into();
        self.namespace.inside(|| Client::new(wire::udp(relay)))
    }

    /// A TURN client over TCP.
    pub(crate) fn tcp_client(&self, relay: impl Into<SocketAddr>) -> Client {
        let relay = relay.into();
        self.namespace.inside(|| Client::new(wire::tcp(relay)))
    }

    /// A peer at the IPv4 address.
    pub(crate) fn peer(&self) -> Peer {
        self.peer_at(self.v4)
    }

    /// A peer at the IPv6 address.
    pub(crate) fn peer_v6(&self) -> Peer {
        self.peer_at(self.v6)
    }

    pub(crate) fn peer_at(&self, address: impl Into<IpAddr>) -> Peer {
        let address = address.into();
        self.namespace.inside(|| Peer::at(address))
    }

    /// A peer with a certain port.
    pub(crate) fn peer_on(&self, address: SocketAddr) -> Peer {
        let bound = self.namespace.inside(|| UdpSocket::bind(address));
        Peer(bound.unwrap())
    }

    /// Sees everything that comes to the host and leaves it.
    pub(crate) fn tap(&self) -> Tap {
        // all protocols, in the network's byte order
        let all = Protocol::from(i32::from(3_u16.to_be()));
        let socket = self
            .namespace
            .inside(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(all)));
        Tap(socket.unwrap())
    }
}

/// All IP packets of a namespace.
pub(crate) struct Tap(Socket);

/// What a test wants to know of an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IpPacket {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) is_fragment: bool,
    /// 17 for UDP.
    pub(crate) protocol: u8,
    /// Behind the header, of the first fragment that of UDP, too.
    pub(crate) payload: Vec<u8>,
}

impl Tap {
    /// The next packet of which that is true, which must come.
    pub(crate) fn find(&mut self, wanted: impl Fn(&IpPacket) -> bool) -> IpPacket {
        let deadline = now() + PATIENCE;
        self.0
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let mut buffer = vec![0; 65_536];
        while now() < deadline {
            if let Ok(len) = self.0.read(&mut buffer)
                && let Some(packet) = parse(&buffer[..len])
                && wanted(&packet)
            {
                return packet;
            }
        }
        panic!("no such packet comes");
    }

    /// The next UDP datagram (or its first fragment) to `to` with `payload` at its beginning.
    pub(crate) fn find_datagram(&mut self, to: SocketAddr, payload: &[u8]) -> IpPacket {
        self.find(|packet| {
            let [_, _, high, low, _, _, _, _, rest @ ..] = &packet.payload[..] else {
                return false;
            };
            packet.protocol == 17
                && SocketAddr::new(packet.to, u16::from_be_bytes([*high, *low])) == to
                && rest.starts_with(payload)
        })
    }
}

fn parse(bytes: &[u8]) -> Option<IpPacket> {
    match bytes.first()? >> 4 {
        4 => {
            let header_len = usize::from(bytes[0] & 15) * 4;
            let flags = u16::from_be_bytes(bytes.get(6..8)?.try_into().ok()?);
            let address = |from: usize| -> Option<IpAddr> {
                let octets: [u8; 4] = bytes.get(from..from + 4)?.try_into().ok()?;
                Some(octets.into())
            };
            Some(IpPacket {
                from: address(12)?,
                to: address(16)?,
                traffic_class: bytes[1],
                hops: bytes[8],
                dont_fragment: flags & 0x4000 != 0,
                is_fragment: flags & 0x3FFF != 0,
                protocol: bytes[9],
                payload: bytes.get(header_len..)?.to_vec(),
            })
        }
        6 => {
            let address = |from: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = bytes.get(from..from + 16)?.try_into().ok()?;
                Some(octets.into())
            };
            let next = *bytes.get(6)?;
            // a fragment header has eight bytes
            let (protocol, start) = if next == 44 {
                (*bytes.get(40)?, 48)
            } else {
                (next, 40)
            };
            Some(IpPacket {
                from: address(8)?,
                to: address(24)?,
                traffic_class: bytes[0] << 4 | bytes[1] >> 4,
                hops: bytes[7],
                dont_fragment: true,
                is_fragment: next == 44,
                protocol,
                payload: bytes.get(start..)?.to_vec(),
            })
        }
        _ => None,
    }
}
