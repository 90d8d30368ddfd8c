//! Clients over TCP and TLS, and a peer over UDP.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use shared::clock::Clock;

use super::{Bench, Contender};
use crate::{
    crowd::Origin,
    relay::{Relay, What},
    report::{LOSSY, Row, Sample, Section},
    say,
    stream::{StreamClient, Transport},
    stun::{CHANNEL_HEADER, channel_data, channel_header},
    traffic::ratio,
    wire::Wire,
};

/// Bytes of data in each packet: a multiple of four, so that `ChannelData` over TCP needs no padding.
const SIZE: usize = 1200;
const FRAME: usize = CHANNEL_HEADER + SIZE;
/// Packets that the client writes at once.
const FRAMES: usize = 16;
const CHANNEL: u16 = 0x4000;
/// Packets a second from the peer: what all can carry, and more than the load generator can send.
const PACED: f64 = 20_000.0;
const FLOOD: f64 = 10e6;
/// Traffic before the measurement.
const WARM_UP: Duration = Duration::from_millis(200);

/// A relay, a client with a connection to it, and a peer.
struct Connected {
    relay: Relay,
    client: StreamClient,
    peer: Wire,
    /// What the client writes: whole frames, again and again, and where it is in them.
    frames: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
    /// What the client has read of a frame that is not whole.
    unread: Vec<u8>,
}

/// Which way data goes, and how much.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Load {
    /// From the client, as much as the connection takes.
    Up,
    /// From the peer, so many packets a second.
    Down(f64),
}

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let mut rows = Vec::new();
    let mut ciphers = Vec::new();
    for transport in Transport::ALL {
        let mut connected = Vec::new();
        for what in bench.relays.measured() {
            let one = Connected::new(bench, what, transport)
                .with_context(|| format!("{} over {}", what.name(), transport.name()))?;
            if let Some(cipher) = one.client.cipher() {
                ciphers.push(format!("{} {cipher}", what.name()));
            }
            connected.push(one);
        }
        let name = transport.name();
        for (load, rate, cpu) in [
            (Load::Up, Some("client → peer"), Some("client → peer")),
            (
                Load::Down(PACED),
                None,
                Some("peer → client, 24 MB/s offered"),
            ),
            (Load::Down(FLOOD), Some("peer → client, flooded"), None),
        ] {
            say(&format!("{name}: {load:?}"));
            let mut throughput = rate.map(|way| Row::new(format!("{name}, {way}"), "MB/s", 0));
            let mut each =
                cpu.map(|way| Row::new(format!("{name}, {way}: CPU time"), "ms for each MB", 2));
            bench.rounds(&mut connected, |connected, number, counts| {
                let clock = &bench.relays.clock;
                if let Some(one) = connected.get_mut(number) {
                    one.run(load, WARM_UP, clock)?;
                }
                let (ran, used) = bench.watch(connected, number, |one| {
                    one.run(load, bench.plan.window, clock)
                })?;
                let Some(one) = connected.get(number).filter(|_| counts) else {
                    return Ok(());
                };
                let megabytes = ratio(ran.bytes, 1_000_000);
                if let Some(row) = &mut throughput {
                    let sample = Sample {
                        limited: ran.limited,
                        ..used.sample(megabytes / ran.took.as_secs_f64())
                    };
                    row.add(one.relay.what, sample);
                }
                if let Some(row) = &mut each {
                    let sample = Sample {
                        loss: ran.loss,
                        ..used.sample(used.relay.as_secs_f64() * 1e3 / megabytes)
                    };
                    row.add(one.relay.what, sample);
                }
                Ok(())
            })?;
            rows.extend(throughput);
            rows.extend(each);
        }
    }
    Ok(Section {
        title: "TCP and TLS".to_owned(),
        notes: vec![format!(
            "One connection, ChannelData of {SIZE} bytes, and a peer over UDP; what arrives is counted, in megabytes of data. \
             TLS: {}.",
            ciphers.join(", ")
        )],
        rows,
    })
}

/// What was carried.
struct Ran {
    bytes: u64,
    took: Duration,
    /// Lost bytes for each that was sent, where the connection does not hold the sender back.
    loss: f64,
    /// The relay could have taken more.
    limited: bool,
}

impl Contender for Connected {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

impl Connected {
    fn new(bench: &Bench, what: What, transport: Transport) -> Result<Self> {
        let relay = bench.relays.start(what)?;
        let peer = Wire::open()?;
        let address = SocketAddrV4::new(Origin::PEERS.address(0), peer.port());
        let client = StreamClient::connect(
            &relay,
            transport,
            &bench.relays.tls.client,
            (CHANNEL, address),
        )?;
        let mut frame = channel_header(CHANNEL, SIZE).to_vec();
        frame.resize(FRAME, 0x5A);
        Ok(Self {
            relay,
            client,
            peer,
            frames: frame.repeat(FRAMES),
            written: 0,
            buffer: vec![0; 64 * 1024],
            unread: Vec::new(),
        })
    }

    fn run(&mut self, load: Load, time: Duration, clock: &Clock) -> Result<Ran> {
        match load {
            Load::Up => self.up(time, clock),
            Load::Down(rate) => self.down(rate, time, clock),
        }
    }

    fn up(&mut self, time: Duration, clock: &Clock) -> Result<Ran> {
        self.peer.drain()?;
        let began = clock.now();
        let (mut bytes, mut held_back) = (0, false);
        while clock.now() < began + time {
            let rest = self.frames.get(self.written..).unwrap_or_default();
            let more = self.client.write(rest)?;
            held_back |= more < rest.len();
            self.written = (self.written + more) % self.frames.len();
            self.peer
                .receive(|packet| bytes += data_of_right_size(packet))?;
        }
        Ok(Ran {
            bytes,
            took: clock.now() - began,
            loss: 0.0,
            limited: !held_back,
        })
    }

    fn down(&mut self, rate: f64, time: Duration, clock: &Clock) -> Result<Ran> {
        let to = self.client.relayed()?;
        let from = Origin::PEERS.address(0);
        let packet = vec![0x5A; SIZE];
        let began = clock.now();
        let mut count = 0.0;
        let (mut bytes, mut sent) = (0, 0);
        loop {
            let elapsed = clock.now().saturating_duration_since(began);
            if elapsed >= time {
                break;
            }
            for _ in 0..16 {
                if count > rate * elapsed.as_secs_f64() {
                    break;
                }
                self.peer.send(from, to, &packet)?;
                count += 1.0;
                sent += SIZE as u64;
            }
            bytes += self.take()?;
        }
        // what is still on its way must not be counted the next time
        let (rest, last) = self.rest(clock)?;
        bytes += rest;
        let loss = 1.0 - ratio(bytes, sent.max(1));
        Ok(Ran {
            bytes,
            took: last - began,
            loss,
            limited: loss <= LOSSY,
        })
    }

    /// Reads until nothing has come for a moment, and says when the last came.
    fn rest(&mut self, clock: &Clock) -> Result<(u64, Instant)> {
        const MOMENT: Duration = Duration::from_millis(30);
        let mut bytes = 0;
        let mut last = clock.now();
        while clock.now() < last + MOMENT {
            let more = self.take()?;
            if more > 0 {
                last = clock.now();
            }
            bytes += more;
        }
        Ok((bytes, last))
    }

    /// Reads once, and counts the data of the frames that are whole.
    fn take(&mut self) -> Result<u64> {
        let read = self.client.read(&mut self.buffer)?;
        let read = self.buffer.get(..read).unwrap_or_default();
        self.unread.extend_from_slice(read);
        let mut place = 0;
        let mut bytes = 0;
        while let Some(frame) = self.unread.get(place..place + FRAME) {
            match channel_data(frame) {
                Some((CHANNEL, data)) if data.len() == SIZE => bytes += SIZE as u64,
                _ => bail!("the relay sent something else than the peer's packets"),
            }
            place += FRAME;
        }
        self.unread.drain(..place);
        Ok(bytes)
    }
}

fn data_of_right_size(packet: &[u8]) -> u64 {
    if packet.len() == SIZE { SIZE as u64 } else { 0 }
}
