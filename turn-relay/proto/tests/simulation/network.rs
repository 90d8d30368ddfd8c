//! What is between clients, servers and peers.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::SocketAddr,
    ops::Range,
    time::Duration,
};

use turn_relay_proto::{
    FiveTuple, Server, Time,
    address::{Family, Transport},
};

use crate::{
    participant::{Participant, State},
    support::{
        random::Seeded,
        stun::{Draft, SEND},
        world::{FromServer, Outcome, World, config, socket},
    },
};

/// What the network does to datagrams: percentages, and milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) loss: usize,
    pub(crate) duplicates: usize,
    pub(crate) delay: Range<u64>,
}

impl Weather {
    fn is_fair(&self) -> bool {
        self.loss == 0 && self.duplicates == 0
    }
}

/// Where everybody can be reached who is not a client, by number.
pub(crate) const PEERS: [&str; 3] = [
    "198.51.100.1:5001",
    "198.51.100.2:5002",
    "[2001:db8:5::3]:5003",
];
/// Somebody whom nobody permits.
const UNINVITED: &str = "198.51.100.66:6666";

enum Event {
    ToServer {
        participant: usize,
        from: FiveTuple,
        bytes: Vec<u8>,
    },
    ToClient {
        to: FiveTuple,
        message: FromServer,
    },
    ToPeer {
        from: SocketAddr,
        peer: SocketAddr,
        payload: Vec<u8>,
    },
    FromPeer {
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: Vec<u8>,
    },
    Wake {
        participant: usize,
    },
    /// Once, for a request that may have to be repeated.
    Repeat {
        participant: usize,
    },
}

pub(crate) struct Network {
    pub(crate) world: World,
    weather: Weather,
    random: Seeded,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: HashMap<u64, Event>,
    number: u64,
    /// Streams keep their order: when the last packet of each arrives.
    last_on_stream: HashMap<(FiveTuple, bool), Time>,
    participants: Vec<Participant>,
    /// Datagrams that came to peers.
    to_peers: u64,
}

impl Network {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        let mut random = Seeded::new(seed);
        let mut config = config();
        config.quotas.unauthenticated_per_prefix = 10_000;
        let mut world = World::of(2, config, 50_000..=50_099, seed);
        let transports = [
            Transport::Udp,
            Transport::Udp,
            Transport::Tcp,
            Transport::Udp,
            Transport::Tls,
            Transport::Dtls,
        ];
        let count = 2 + 2 * random.below(3);
        let participants = (0..count).map(|number| {
            let transport = *random.pick(&transports);
            let family = if random.chance(30) {
                Family::V6
            } else {
                Family::V4
            };
            let partner = number ^ 1;
            Participant::new(
                &mut world,
                random.next(),
                number,
                partner,
                transport,
                family,
            )
        });
        let participants: Vec<_> = participants.collect();
        let mut network = Self {
            world,
            weather,
            random,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            number: 0,
            last_on_stream: HashMap::new(),
            participants,
            to_peers: 0,
        };
        for participant in 0..count {
            let at = network.random.next() % 5000;
            network.after(Duration::from_millis(at), Event::Wake { participant });
        }
        network
    }

    fn after(&mut self, duration: Duration, event: Event) {
        self.at(self.world.now.time + duration, event);
    }

    fn at(&mut self, time: Time, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((time, self.number)));
        self.events.insert(self.number, event);
    }

    /// How long each copy of a datagram takes that arrives.
    fn copies(&mut self) -> Vec<Duration> {
        let mut copies = Vec::new();
        let count = 1 + usize::from(self.random.chance(self.weather.duplicates));
        for _ in 0..count {
            if !self.random.chance(self.weather.loss) {
                let Range { start, end } = self.weather.delay;
                copies.push(Duration::from_millis(
                    start + self.random.next() % (end - start),
                ));
            }
        }
        copies
    }

    /// When the next bytes of a stream arrive.
    fn on_stream(&mut self, stream: FiveTuple, to_client: bool) -> Time {
        let delay = Duration::from_millis(1 + self.random.next() % 100);
        let last = self.last_on_stream.entry((stream, to_client)).or_default();
        *last = (*last).max(self.world.now.time + delay);
        *last
    }

    /// Lets everybody talk until all have left.
    pub(crate) fn live(&mut self) {
        while let Some(Reverse((time, number))) = self.queue.pop() {
            self.pass_until(time);
            let event = self.events.remove(&number).expect("it was noted");
            self.happen(event);
            for participant in 0..self.participants.len() {
                self.send_out(participant);
            }
        }
    }

    /// Moves time, and tells the servers of it, sometimes late.
    fn pass_until(&mut self, time: Time) {
        loop {
            let timeouts = self.world.servers.iter().filter_map(Server::next_timeout);
            let late = Duration::from_millis(self.random.next() % 700);
            let next = timeouts.min().map(|next| next + late);
            let Some(next) = next.filter(|next| *next < time) else {
                break;
            };
            self.world.pass(next.since(self.world.now.time));
            let outcome = self.world.tick();
            self.spread(outcome);
        }
        self.world.pass(time.since(self.world.now.time));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToServer {
                participant,
                from,
                bytes,
            } => {
                let server = self.participants[participant].client.server;
                self.world.rooms.head = self.random.below(60);
                self.world.rooms.tail = self.random.below(5);
                let outcome = self.world.client_says(server, from, &bytes);
                self.spread(outcome);
            }
            Event::ToClient { to, message } => {
                let now = self.world.now.time;
                let mut participants = self.participants.iter();
                let receiver = participants.position(|other| other.client.five_tuple == to);
                // or a client that is somewhere else by now
                if let Some(receiver) = receiver
                    && self.participants[receiver].receive(message, now)
                {
                    self.wake(receiver);
                }
            }
            Event::ToPeer {
                from,
                peer,
                payload,
            } => {
                self.to_peers += 1;
                for copy in self.copies() {
                    let payload = payload.clone();
                    self.after(
                        copy,
                        Event::FromPeer {
                            relayed: from,
                            peer,
                            payload,
                        },
                    );
                }
                if self.random.chance(5) {
                    let payload = b"uninvited".to_vec();
                    let peer = socket(UNINVITED);
                    self.after(
                        Duration::from_millis(5),
                        Event::FromPeer {
                            relayed: from,
                            peer,
                            payload,
                        },
                    );
                }
            }
            Event::FromPeer {
                relayed,
                peer,
                payload,
            } => {
                // the socket may be closed by now
                if self.world.relay(relayed).is_some() && relayed.is_ipv4() == peer.is_ipv4() {
                    let outcome = self.world.peer_says(relayed, peer, &payload);
                    self.spread(outcome);
                }
            }
            Event::Repeat { participant } => {
                if self.participants[participant].state != State::Gone {
                    self.wake(participant);
                }
            }
            Event::Wake { participant } => {
                self.wake(participant);
                if self.participants[participant].state != State::Gone {
                    let at = self.participants[participant].wakes_at(self.world.now.time);
                    self.at(at, Event::Wake { participant });
                }
            }
        }
    }

    /// Lets a participant do what it has to do by now.
    fn wake(&mut self, number: usize) {
        let now = self.world.now.time;
        let partner = self.participants[number].partner;
        let board = self.participants[partner].board();
        let fair = self.weather.is_fair();
        let participant = &mut self.participants[number];
        participant.wake(&mut self.world, &board, fair, now);
        if let Some(at) = participant.repeats_at() {
            self.at(
                at,
                Event::Repeat {
                    participant: number,
                },
            );
        }
    }

    /// Puts what a participant wants sent on its way.
    fn send_out(&mut self, number: usize) {
        for bytes in std::mem::take(&mut self.participants[number].outbox) {
            let from = self.participants[number].client.five_tuple;
            if from.transport.is_stream() {
                let time = self.on_stream(from, false);
                self.at(
                    time,
                    Event::ToServer {
                        participant: number,
                        from,
                        bytes,
                    },
                );
                continue;
            }
            for copy in self.copies() {
                let bytes = bytes.clone();
                self.after(
                    copy,
                    Event::ToServer {
                        participant: number,
                        from,
                        bytes,
                    },
                );
            }
            // and somebody else who says to be the client: garbage, and data for whom it may not send to
            if self.random.chance(1) {
                let bytes = Draft::indication(SEND)
                    .peer(socket(UNINVITED))
                    .data(b"spoofed")
                    .finish();
                self.after(
                    Duration::from_millis(1),
                    Event::ToServer {
                        participant: number,
                        from,
                        bytes,
                    },
                );
            }
        }
    }

    /// Puts what the servers want sent on its way.
    fn spread(&mut self, outcome: Outcome) {
        for datagram in outcome.to_peers {
            assert_ne!(datagram.peer, socket(UNINVITED), "nobody permits it");
            for copy in self.copies() {
                let (from, peer) = (datagram.from, datagram.peer);
                let payload = datagram.payload.clone();
                self.after(
                    copy,
                    Event::ToPeer {
                        from,
                        peer,
                        payload,
                    },
                );
            }
        }
        for to_client in outcome.to_clients {
            let to = to_client.client;
            if to.transport.is_stream() {
                let time = self.on_stream(to, true);
                self.at(
                    time,
                    Event::ToClient {
                        to,
                        message: to_client.message,
                    },
                );
                continue;
            }
            for copy in self.copies() {
                let message = to_client.message.clone();
                self.after(copy, Event::ToClient { to, message });
            }
        }
    }

    /// Asserts that everybody got what was sent, and that nothing is left.
    pub(crate) fn check(&mut self) {
        let fair = self.weather.is_fair();
        for participant in &self.participants {
            participant.check(fair);
        }
        for participant in &self.participants {
            let partner = &self.participants[participant.partner];
            participant.check_heard_by(partner, fair);
        }
        assert!(
            self.to_peers > 100,
            "there was something to be seen: {}",
            self.to_peers
        );
        // what late copies of requests may have made, and the allocations of those who had to move
        self.world.advance(Duration::from_secs(2 * 3600));
        assert_eq!(self.world.allocations(), 0);
        assert_eq!(self.world.open_sockets().count(), 0);
        for server in &self.world.servers {
            assert_eq!(server.next_timeout(), None);
        }
    }
}
