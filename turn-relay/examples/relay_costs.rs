//! What one relayed packet costs a relay thread: the whole of it, core and system calls.
//!
//! One thread relays, for clients and peers on loopback in this process. Each round every flow sends a burst, and the next begins when all of it has arrived; what
//! the thread used of the CPU meanwhile comes from `/proc`.
//!
//! `cargo run --release -p turn-relay --example relay_costs`
#![expect(clippy::print_stdout, reason = "a report for whoever measures")]

#[cfg(target_os = "linux")]
#[path = "../tests/workers/client.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod client;
#[cfg(target_os = "linux")]
#[path = "../tests/workers/relay.rs"]
mod relay;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs,
        net::{SocketAddr, UdpSocket},
        time::Duration,
    };

    use turn_relay::workers::Workers;

    use crate::{
        client::{Channel, Client, udp_client},
        relay::{reloadable, settings, start},
    };

    const ROUNDS: usize = 40;
    /// Datagrams of one round, about.
    const ROUND: usize = 3_000;

    pub(super) fn main() {
        let arguments: Vec<usize> = std::env::args()
            .skip(1)
            .filter_map(|argument| argument.parse().ok())
            .collect();
        println!("nanoseconds of CPU for each packet");
        println!(
            "{:<40}{:>16}{:>16}{:>16}",
            "flows, at once of each, bytes", "client to peer", "peer to client", "across"
        );
        if let [flows, burst, len] = *arguments {
            return report(flows, burst, len);
        }
        for (flows, burst, len) in [
            (1, 1, 160),
            (1, 30, 1_200),
            (100, 1, 160),
            (100, 1, 1_200),
            (100, 10, 1_200),
            (1_000, 1, 160),
        ] {
            report(flows, burst, len);
        }
    }

    /// One line of the table.
    fn report(flows: usize, burst: usize, len: usize) {
        let mut settings = settings();
        settings.workers = 1;
        settings.udp = vec![SocketAddr::from(([0, 0, 0, 0], 0))];
        let relay = start(settings, reloadable());
        let pairs: Vec<_> = (0..flows / 2).map(|_| Pair::new(&relay)).collect();
        let flows: Vec<_> = (0..flows).map(|_| Flow::new(&relay)).collect();
        print!("{:<40}", format!("{}, {burst}, {len}", flows.len()));
        let up = measure(
            &flows,
            burst,
            |flow, payload| {
                let message = flow.channel.message(payload);
                flow.client.wire.send(&message).expect("sent");
            },
            |flow| flow.peer.recv(&mut [0; 2_000]).is_ok(),
            len,
        );
        let down = measure(
            &flows,
            burst,
            |flow, payload| {
                flow.peer.send_to(payload, flow.relayed).expect("sent");
            },
            |flow| flow.client.wire.recv(&mut [0; 2_000]).is_ok(),
            len,
        );
        let across = measure(
            &pairs,
            burst,
            |pair, payload| {
                let message = pair.channel.message(payload);
                pair.one.wire.send(&message).expect("sent");
            },
            |pair| pair.other.wire.recv(&mut [0; 2_000]).is_ok(),
            len,
        );
        println!("{up:>16}{down:>16}{across:>16}");
    }

    struct Flow {
        client: Client<UdpSocket>,
        peer: UdpSocket,
        relayed: SocketAddr,
        channel: Channel,
    }

    struct Pair {
        one: Client<UdpSocket>,
        other: Client<UdpSocket>,
        channel: Channel,
    }

    impl Flow {
        fn new(relay: &Workers) -> Self {
            let mut client = client(relay);
            let relayed = client.allocate();
            let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            peer.set_read_timeout(Some(Duration::from_secs(1)))
                .expect("not zero");
            let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
            Self {
                client,
                peer,
                relayed,
                channel,
            }
        }
    }

    impl Pair {
        fn new(relay: &Workers) -> Self {
            let (mut one, mut other) = (client(relay), client(relay));
            let (relayed_one, relayed_other) = (one.allocate(), other.allocate());
            other.bind(0x4000, relayed_one);
            let channel = one.bind(0x4000, relayed_other);
            Self {
                one,
                other,
                channel,
            }
        }
    }

    fn client(relay: &Workers) -> Client<UdpSocket> {
        let port = relay.local_addresses()[0].port();
        let client = udp_client(SocketAddr::from(([127, 0, 0, 1], port)));
        client
            .wire
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("not zero");
        client
    }

    fn measure<F>(
        flows: &[F],
        burst: usize,
        send: impl Fn(&F, &[u8]),
        receive: impl Fn(&F) -> bool,
        len: usize,
    ) -> String {
        if flows.is_empty() {
            return "-".to_owned();
        }
        let payload = vec![7; len];
        let repeats = (ROUND / (flows.len() * burst)).max(1);
        let mut times: Vec<u64> = (0..ROUNDS)
            .map(|_| {
                let before = cpu_nanos();
                let mut count = 0;
                for _ in 0..repeats {
                    for flow in flows {
                        for _ in 0..burst {
                            send(flow, &payload);
                        }
                    }
                    for flow in flows {
                        for _ in 0..burst {
                            assert!(receive(flow), "a packet was lost");
                            count += 1;
                        }
                    }
                }
                (cpu_nanos() - before) / count
            })
            .collect();
        times.sort_unstable();
        times[times.len() / 2].to_string()
    }

    /// What the relay thread has used.
    fn cpu_nanos() -> u64 {
        fs::read_dir("/proc/self/task")
            .expect("there is a /proc")
            .filter_map(Result::ok)
            .filter(|task| {
                fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "relay-0\n")
            })
            .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|times| times.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}
