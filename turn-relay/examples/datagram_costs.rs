//! What moving one datagram costs the thread that moves it, by the system calls that it takes.
//!
//! Flows of clients come to one socket and leave from a socket each (`fan out`), or come to a socket each and leave from
//! one (`fan in`), or come and leave by one (`across`): as a relay's do. Everything is on loopback and in one thread: senders fill the sockets,
//! then the relay's part is timed by the thread's CPU clock, then receivers are emptied. A send's time has the delivery to the receiver in it.
//!
//! `cargo run --release -p turn-relay --example datagram_costs`
#![expect(clippy::print_stdout, reason = "a report for whoever measures")]

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io::IoSlice,
        net::{SocketAddr, UdpSocket},
        time::Duration,
    };

    use rustix::{
        net::{MMsgHdr, SendAncillaryBuffer, SendFlags, addr::SocketAddrArg as _, sendmmsg},
        time::{ClockId, clock_gettime},
    };
    use turn_relay::io::{
        datagrams::{Arena, BATCH, Datagrams, Envelope, MAX_SEGMENTS, Role},
        linux::LinuxDatagrams,
        portable::PortableDatagrams,
    };

    /// Rounds of each measurement; the median counts.
    const ROUNDS: usize = 400;

    pub(super) fn main() {
        println!("nanoseconds of CPU for each datagram, batches of {BATCH}");
        println!(
            "{:<44}{:>12}{:>12}{:>12}",
            "", "fan out", "fan in", "across"
        );
        for (flows, burst, len) in [
            (1, 1, 160),
            (1, 32, 160),
            (1, 32, 1_200),
            (32, 1, 160),
            (32, 1, 1_200),
            (8, 4, 1_200),
        ] {
            println!("{flows} flows, {burst} datagrams of {len} bytes of each");
            for way in Way::ALL {
                print!("  {:<42}", way.label());
                for shape in [Shape::Out, Shape::In, Shape::Across] {
                    let nanos = Stage::new(flows, shape).measure(burst, len, way);
                    print!("{nanos:>12}");
                }
                println!();
            }
        }
    }

    /// From where to where flows go.
    #[derive(Clone, Copy, PartialEq)]
    enum Shape {
        Out,
        In,
        Across,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        /// `recv_from` until there is nothing; nothing is sent.
        SingleAlone,
        /// `recvmmsg`; nothing is sent.
        ReceivedAlone,
        /// `recv_from` until there is nothing, `send_to`.
        Single,
        /// `recvmmsg`, `sendmsg` for each.
        Received,
        /// `recvmmsg`, `sendmmsg` for all that leave from one socket.
        SentMany,
        /// `recvmmsg`, one segmented send for what goes to one destination.
        Segmented,
        /// As the one before; bursts were sent segmented.
        FromSegments,
        /// As the one before, and are received as one (`UDP_GRO`).
        AsRuns,
    }

    impl Way {
        const ALL: [Self; 8] = [
            Self::SingleAlone,
            Self::ReceivedAlone,
            Self::Single,
            Self::Received,
            Self::SentMany,
            Self::Segmented,
            Self::FromSegments,
            Self::AsRuns,
        ];

        const fn label(self) -> &'static str {
            match self {
                Self::SingleAlone => "recvfrom alone",
                Self::ReceivedAlone => "recvmmsg alone",
                Self::Single => "recvfrom, sendto",
                Self::Received => "recvmmsg, sendmsg",
                Self::SentMany => "recvmmsg, sendmmsg",
                Self::Segmented => "recvmmsg, sendmsg with UDP_SEGMENT",
                Self::FromSegments => "the same, from segmented senders",
                Self::AsRuns => "the same, received with UDP_GRO",
            }
        }
    }

    struct Stage {
        senders: Vec<UdpSocket>,
        /// One, or as many as flows.
        inner: Vec<UdpSocket>,
        outer: Vec<UdpSocket>,
        receivers: Vec<UdpSocket>,
        destinations: Vec<SocketAddr>,
        shape: Shape,
    }

    impl Stage {
        fn new(flows: usize, shape: Shape) -> Self {
            let many = || (0..flows).map(|_| socket()).collect::<Vec<_>>();
            let (inner, outer) = match shape {
                Shape::Out => (vec![socket()], many()),
                Shape::In => (many(), vec![socket()]),
                Shape::Across => (vec![socket()], Vec::new()),
            };
            let receivers = many();
            let senders = many();
            for (flow, sender) in senders.iter().enumerate() {
                let to = &inner[flow % inner.len()];
                sender
                    .connect(to.local_addr().expect("bound"))
                    .expect("loopback");
            }
            Self {
                destinations: receivers
                    .iter()
                    .map(|receiver| receiver.local_addr().expect("bound"))
                    .collect(),
                senders,
                inner,
                outer,
                receivers,
                shape,
            }
        }

        fn measure(&self, burst: usize, len: usize, way: Way) -> u128 {
            let mut relay = Relay::new(self);
            let mut system = LinuxDatagrams::new();
            for socket in &self.inner {
                let received = system.receive_runs(socket, way == Way::AsRuns);
                received.expect("the kernel has UDP_GRO");
            }
            let payload = vec![7; len];
            let count = burst * self.senders.len();
            let mut times: Vec<u128> = (0..ROUNDS)
                .map(|_| {
                    for (flow, sender) in self.senders.iter().enumerate() {
                        if matches!(way, Way::FromSegments | Way::AsRuns) {
                            let to = &self.inner[flow % self.inner.len()];
                            let to = to.local_addr().expect("bound");
                            let run = vec![IoSlice::new(&payload); burst];
                            assert_eq!(system.send(sender, &envelope(to), &run), 0);
                        } else {
                            for _ in 0..burst {
                                sender.send(&payload).expect("there is space");
                            }
                        }
                    }
                    let before = cpu_time();
                    for from in 0..self.inner.len() {
                        relay.forward(from, way);
                    }
                    let after = cpu_time();
                    let mut buffer = [0; 2_048];
                    let arrived = self
                        .receivers
                        .iter()
                        .map(|receiver| {
                            std::iter::from_fn(|| receiver.recv(&mut buffer).ok()).count()
                        })
                        .sum::<usize>();
                    if !matches!(way, Way::SingleAlone | Way::ReceivedAlone) {
                        assert_eq!(arrived, count, "{}", way.label());
                    }
                    after.saturating_sub(before).as_nanos() / count as u128
                })
                .collect();
            times.sort_unstable();
            times[times.len() / 2]
        }
    }

    struct Relay<'a> {
        stage: &'a Stage,
        arena: Arena,
        system: LinuxDatagrams,
        portable: PortableDatagrams,
        flow_by_port: Vec<u16>,
    }

    impl<'a> Relay<'a> {
        fn new(stage: &'a Stage) -> Self {
            let mut flow_by_port = vec![0; 65_536];
            for (flow, sender) in (0..).zip(&stage.senders) {
                flow_by_port[usize::from(sender.local_addr().expect("bound").port())] = flow;
            }
            Self {
                stage,
                arena: Arena::new(),
                system: LinuxDatagrams::new(),
                portable: PortableDatagrams::new(),
                flow_by_port,
            }
        }

        /// Forwards all that waits at one socket.
        fn forward(&mut self, from: usize, way: Way) {
            let socket = &self.stage.inner[from];
            loop {
                let received = if matches!(way, Way::Single | Way::SingleAlone) {
                    self.portable.receive(socket, &mut self.arena, BATCH)
                } else {
                    self.system.receive(socket, &mut self.arena, BATCH)
                };
                if received.is_err() {
                    return;
                }
                self.send(way);
                if self.arena.len() < BATCH {
                    return;
                }
            }
        }

        fn send(&mut self, way: Way) {
            let Self {
                stage,
                arena,
                system,
                flow_by_port,
                ..
            } = self;
            let memory = arena.memory();
            let messages: Vec<_> = (0..arena.len())
                .flat_map(|index| {
                    let received = arena.get(index).expect("received");
                    let flow = flow_by_port[usize::from(received.from.port())];
                    memory[received.range.clone()]
                        .chunks(received.stride)
                        .map(move |datagram| (usize::from(flow), datagram))
                })
                .collect();
            match way {
                Way::SingleAlone | Way::ReceivedAlone => {}
                Way::Single => {
                    for (flow, payload) in messages {
                        let to = stage.destinations[flow];
                        stage.outer(flow).send_to(payload, to).expect("space");
                    }
                }
                Way::Received => {
                    for (flow, payload) in messages {
                        stage.send(system, flow, &[IoSlice::new(payload)]);
                    }
                }
                Way::Segmented | Way::FromSegments | Way::AsRuns => {
                    for run in messages.chunk_by(|one, next| one.0 == next.0) {
                        for run in run.chunks(MAX_SEGMENTS) {
                            let slices: Vec<_> = run
                                .iter()
                                .map(|(_, payload)| IoSlice::new(payload))
                                .collect();
                            stage.send(system, run[0].0, &slices);
                        }
                    }
                }
                Way::SentMany => {
                    let by_socket = |flow: usize| flow % stage.outer.len().max(1);
                    for run in messages.chunk_by(|one, next| by_socket(one.0) == by_socket(next.0))
                    {
                        stage.send_many(run);
                    }
                }
            }
        }
    }

    impl Stage {
        fn outer(&self, flow: usize) -> &UdpSocket {
            match self.shape {
                Shape::Out => &self.outer[flow],
                Shape::In => &self.outer[0],
                Shape::Across => &self.inner[0],
            }
        }

        fn send(&self, system: &mut LinuxDatagrams, flow: usize, payloads: &[IoSlice<'_>]) {
            let envelope = envelope(self.destinations[flow]);
            assert_eq!(system.send(self.outer(flow), &envelope, payloads), 0);
        }

        fn send_many(&self, run: &[(usize, &[u8])]) {
            let names: Vec<_> = run
                .iter()
                .map(|(flow, _)| self.destinations[*flow].as_any())
                .collect();
            let slices: Vec<_> = run
                .iter()
                .map(|(_, payload)| [IoSlice::new(payload)])
                .collect();
            let mut controls: Vec<_> = run.iter().map(|_| SendAncillaryBuffer::default()).collect();
            let mut headers: Vec<_> = names
                .iter()
                .zip(&slices)
                .zip(&mut controls)
                .map(|((name, slices), control)| MMsgHdr::new_with_addr(name, slices, control))
                .collect();
            sendmmsg(self.outer(run[0].0), &mut headers, SendFlags::empty()).expect("space");
        }
    }

    fn envelope(to: SocketAddr) -> Envelope {
        Envelope {
            to,
            from: None,
            traffic_class: 0,
            dont_fragment: false,
        }
    }

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_nonblocking(true).expect("possible");
        let socket = socket2::Socket::from(socket);
        LinuxDatagrams::new()
            .prepare(&socket, Role::Listener)
            .expect("possible");
        socket.set_recv_buffer_size(1 << 20).expect("possible");
        socket.into()
    }

    /// CPU time of this thread.
    fn cpu_time() -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.try_into().expect("not negative")
    }
}
