//! Packets at a steady rate through a relay, counted where they arrive.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use shared::{clock::Clock, random::Random};

use crate::{
    stun::{CHANNEL_HEADER, channel_data, channel_header},
    wire::Wire,
};

/// Packets that are sent before the next look at what arrived.
const BURST: u64 = 16;
/// The last packets may take so long.
const QUIET: Duration = Duration::from_millis(30);
/// Nanoseconds; a latency beyond is written down as this.
const LONGEST: u64 = 1_000_000_000;
/// When the generator is late by more than this part of the time, it was the limit itself.
const BEHIND: f64 = 0.02;
/// Intervals that are drawn; then they repeat.
const INTERVALS: usize = 1 << 14;

/// One sender and one receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// As whom packets are sent.
    pub(crate) from: Ipv4Addr,
    /// Where to.
    pub(crate) to: SocketAddrV4,
    /// The channel that they are sent on; none: as they are.
    pub(crate) sent_on: Option<u16>,
    /// The channel that they have to arrive on; none: as they are.
    pub(crate) received_on: Option<u16>,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// Bytes of data in each packet, without the header of `ChannelData`.
    pub(crate) size: usize,
    /// Packets a second, all flows together.
    pub(crate) rate: f64,
    pub(crate) duration: Duration,
}

/// What came of it.
pub(crate) struct Delivered {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// For how long packets were sent.
    pub(crate) took: Duration,
    /// Whether fewer were sent than were to be: the generator could not do more.
    pub(crate) behind: bool,
    /// Nanoseconds from one end to the other.
    pub(crate) latency: Histogram<u64>,
}

/// What a packet says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    /// Of the offer it belongs to.
    run: u32,
    flow: u32,
    /// Nanoseconds since the offer began.
    sent: u64,
}

/// Bytes of a stamp.
const STAMP: usize = 16;

impl Delivered {
    /// Lost packets for each that was sent.
    pub(crate) fn loss(&self) -> f64 {
        1.0 - ratio(self.received, self.sent)
    }

    /// Packets that were delivered in a second.
    pub(crate) fn rate(&self) -> f64 {
        ratio(self.received, 1) / self.took.as_secs_f64()
    }
}

/// Sends packets of all flows in turn, each at its time, and receives them.
pub(crate) fn run(
    (sender, receiver): (&Wire, &mut Wire),
    flows: &[Flow],
    offer: Offer,
    clock: &Clock,
) -> Result<Delivered> {
    receiver.drain()?;
    let began = clock.now();
    let mut packets = Packets::new(offer.size, began);
    let mut arrivals = Arrivals {
        run: packets.run,
        size: offer.size,
        flows,
        began,
        received: 0,
        wrong: 0,
        latency: Histogram::new_with_max(LONGEST, 3)?,
    };
    let mut order = flows.iter().zip(0..).cycle();
    let mut schedule = Schedule::new(offer.rate);
    let mut sent = 0;
    let mut now = began;
    while now < began + offer.duration {
        for _ in 0..BURST {
            if !schedule.is_due(now - began) {
                break;
            }
            let Some((flow, number)) = order.next() else {
                break;
            };
            let packet = packets.next(flow.sent_on, number, clock.now());
            sender.send(flow.from, flow.to, packet)?;
            sent += 1;
        }
        arrivals.read(receiver, clock)?;
        now = clock.now();
    }
    let took = now - began;
    let mut quiet_since = now;
    while arrivals.received < sent && clock.now() < quiet_since + QUIET {
        if arrivals.read(receiver, clock)? > 0 {
            quiet_since = clock.now();
        }
    }
    while arrivals.read(receiver, clock)? > 0 {}
    ensure!(
        arrivals.wrong == 0,
        "{} packets arrived otherwise than they should: on another channel, or changed",
        arrivals.wrong
    );
    Ok(Delivered {
        sent,
        received: arrivals.received,
        took,
        behind: schedule.behind(took) > BEHIND * took.as_secs_f64(),
        latency: arrivals.latency,
    })
}

/// When packets are due: at random intervals (a Poisson process), the same ones each time.
///
/// Packets of many strangers arrive like that. At even intervals a relay would never find two at once, and
/// in bursts always.
struct Schedule {
    /// Seconds.
    intervals: std::iter::Cycle<std::vec::IntoIter<f64>>,
    /// Seconds since the offer began.
    next: f64,
}

impl Schedule {
    fn new(rate: f64) -> Self {
        let random = Random::seeded(1);
        let mut intervals: Vec<_> = (0..INTERVALS)
            .map(|_| -(1.0 - random.fraction()).ln())
            .collect();
        let mean = intervals.iter().sum::<f64>() / ratio(INTERVALS as u64, 1);
        for interval in &mut intervals {
            *interval /= mean * rate;
        }
        Self {
            intervals: intervals.into_iter().cycle(),
            next: 0.0,
        }
    }

    /// Whether a packet is due after so long; the next one is another.
    fn is_due(&mut self, elapsed: Duration) -> bool {
        if self.next > elapsed.as_secs_f64() {
            return false;
        }
        self.next += self.intervals.next().unwrap_or_default();
        true
    }

    /// For how many seconds the next packet is due already.
    fn behind(&self, elapsed: Duration) -> f64 {
        elapsed.as_secs_f64() - self.next
    }
}

/// Writes packets into one buffer.
struct Packets {
    run: u32,
    began: Instant,
    /// Room for the header of `ChannelData`, and the data.
    buffer: Vec<u8>,
}

impl Packets {
    fn new(size: usize, began: Instant) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static RUNS: AtomicU32 = AtomicU32::new(1);
        let mut buffer = vec![0; CHANNEL_HEADER + size.max(STAMP)];
        for (byte, number) in buffer.iter_mut().zip((0..=u8::MAX).cycle()) {
            *byte = number;
        }
        Self {
            run: RUNS.fetch_add(1, Ordering::Relaxed),
            began,
            buffer,
        }
    }

    fn next(&mut self, channel: Option<u16>, flow: u32, now: Instant) -> &[u8] {
        let stamp = Stamp {
            run: self.run,
            flow,
            sent: nanoseconds(now - self.began),
        };
        let size = self.buffer.len() - CHANNEL_HEADER;
        let (header, data) = self.buffer.split_at_mut(CHANNEL_HEADER);
        if let Some(place) = data.first_chunk_mut() {
            *place = stamp.to_bytes();
        }
        if let Some(channel) = channel {
            header.copy_from_slice(&channel_header(channel, size));
            return &self.buffer;
        }
        self.buffer.get(CHANNEL_HEADER..).unwrap_or_default()
    }
}

/// Counts what arrives.
struct Arrivals<'a> {
    run: u32,
    size: usize,
    flows: &'a [Flow],
    began: Instant,
    received: u64,
    wrong: u64,
    latency: Histogram<u64>,
}

impl Arrivals<'_> {
    fn read(&mut self, receiver: &mut Wire, clock: &Clock) -> Result<usize> {
        let mut now = None;
        let count = receiver.receive(|packet| {
            let now = *now.get_or_insert_with(|| clock.now());
            self.take(packet, nanoseconds(now - self.began));
        })?;
        Ok(count)
    }

    fn take(&mut self, packet: &[u8], now: u64) {
        let (channel, data) =
            channel_data(packet).map_or((None, packet), |(channel, data)| (Some(channel), data));
        let Some(stamp) = data.first_chunk().map(Stamp::of_bytes) else {
            self.wrong += 1;
            return;
        };
        if stamp.run != self.run {
            return; // of the offer before
        }
        let flow = usize::try_from(stamp.flow).unwrap_or(usize::MAX);
        let expected = self.flows.get(flow).map(|flow| flow.received_on);
        if expected != Some(channel) || data.len() != self.size {
            self.wrong += 1;
            return;
        }
        self.received += 1;
        self.latency
            .saturating_record(now.saturating_sub(stamp.sent));
    }
}

impl Stamp {
    fn to_bytes(self) -> [u8; STAMP] {
        let number =
            u128::from(self.run) << 96 | u128::from(self.flow) << 64 | u128::from(self.sent);
        number.to_be_bytes()
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "each takes its part of the number"
    )]
    fn of_bytes(bytes: &[u8; STAMP]) -> Self {
        let number = u128::from_be_bytes(*bytes);
        Self {
            run: (number >> 96) as u32,
            flow: (number >> 64) as u32,
            sent: number as u64,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of packets are far from 2^53"
)]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_way() {
        let stamp = Stamp {
            run: 7,
            flow: 999,
            sent: 123_456_789_012,
        };
        assert_eq!(Stamp::of_bytes(&stamp.to_bytes()), stamp);
    }

    #[test]
    fn packets_are_due_at_random_and_in_the_long_run_at_the_rate() {
        let mut schedule = Schedule::new(40_000.0);
        let all = Duration::from_secs(2);
        let count = (0..100_000).take_while(|_| schedule.is_due(all)).count();
        assert!((79_000..81_000).contains(&count), "{count}");
        let mut schedule = Schedule::new(1_000.0);
        let long = (0..1_000)
            .filter(|_| {
                let before = schedule.next;
                schedule.is_due(all);
                schedule.next - before > 0.001
            })
            .count();
        // of exponential intervals, one in e is longer than the mean
        assert!((330..410).contains(&long), "{long}");
    }

    #[test]
    fn a_generator_that_is_late_says_so() {
        let mut schedule = Schedule::new(1_000.0);
        assert!(schedule.is_due(Duration::from_secs(1)));
        assert!(schedule.behind(Duration::from_secs(1)) > 0.9);
    }

    #[test]
    fn without_a_relay_everything_arrives_and_nothing_is_wrong() {
        let (sender, mut receiver) = (Wire::open().unwrap(), Wire::open().unwrap());
        let to = SocketAddrV4::new(Ipv4Addr::new(127, 128, 0, 1), receiver.port());
        let flow = |channel| Flow {
            from: Ipv4Addr::new(127, 64, 0, 1),
            to,
            sent_on: channel,
            received_on: channel,
        };
        let offer = Offer {
            size: 160,
            rate: 2_000.0,
            duration: Duration::from_millis(50),
        };
        let flows = [flow(None), flow(Some(0x4001))];
        let ends = (&sender, &mut receiver);
        let delivered = run(ends, &flows, offer, &Clock::system()).unwrap();
        assert!(delivered.sent > 0);
        assert_eq!(delivered.received, delivered.sent);
        assert_eq!(delivered.latency.len(), delivered.sent);
    }

    #[test]
    fn a_packet_on_another_channel_is_an_error() {
        let (sender, mut receiver) = (Wire::open().unwrap(), Wire::open().unwrap());
        let flow = Flow {
            from: Ipv4Addr::new(127, 64, 0, 1),
            to: SocketAddrV4::new(Ipv4Addr::new(127, 128, 0, 1), receiver.port()),
            sent_on: Some(0x4000),
            received_on: Some(0x4001),
        };
        let offer = Offer {
            size: 160,
            rate: 1_000.0,
            duration: Duration::from_millis(20),
        };
        let ends = (&sender, &mut receiver);
        assert!(run(ends, &[flow], offer, &Clock::system()).is_err());
    }
}
