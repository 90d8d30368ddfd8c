//! Clients that come and go: some stay, some leave politely, some just vanish.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use shared::{clock::Clock, random::Random};

use super::{GRACE, LIFETIME, flood, verdict::Check};
use crate::{
    client::Ask,
    crowd::{Crowd, Origin, Outcome},
    relay::Relay,
    say,
    stun::{CHANNEL_HEADER, channel_data, channel_header},
    wire::Wire,
};

const CHANNEL: u16 = 0x4000;
/// Permissions live for five minutes (RFC 8656 §9).
const REBIND: Duration = Duration::from_secs(200);
/// Everybody arrives within so long.
const ARRIVAL: Duration = Duration::from_secs(30);
/// So many packets without an answer, over so long, and an allocation is lost.
const UNANSWERED: u32 = 10;
const DEAF: Duration = Duration::from_secs(10);
/// The last check may take so long.
const LAST_CALL: Duration = Duration::from_secs(20);
/// A packet names its client and the client's life.
const STAMP: usize = 8;

/// What becomes of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is refreshed to the end.
    Stays,
    /// It is refreshed for a while, and ended.
    Leaves,
    /// It is never refreshed, and expires.
    Vanishes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No allocation.
    Away,
    /// No allocation any more, if the server keeps time.
    Expired,
    /// Asking whether it has expired.
    Checking,
    /// On its way to an allocation and a channel.
    Coming,
    /// Relays.
    Living,
    /// On its way out.
    Leaving,
}

struct Slot {
    state: State,
    fate: Fate,
    /// Counts the allocations it had.
    life: u32,
    bound: Instant,
    refreshed: Instant,
    ends: Instant,
    unanswered: u32,
    heard: Instant,
    is_lost: bool,
}

/// All clients, and their peers.
pub(super) struct Population {
    crowd: Crowd,
    peers: Wire,
    slots: Vec<Slot>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    next_to_ping: usize,
    counts: Counts,
    failures: BTreeMap<String, u64>,
    /// Nobody comes any more.
    closed: bool,
}

#[derive(Default)]
struct Counts {
    allocations: u64,
    refreshes: u64,
    ended: u64,
    expired: u64,
    pings: u64,
    answers: u64,
    lost: u64,
    spoofed: u64,
}

impl Population {
    pub(super) fn new(relay: &Relay, size: usize, clock: &Clock) -> Result<Self> {
        let credentials = |number| relay.credentials(&format!("soak{number}"));
        let crowd = Crowd::new(relay.address, Origin::NEAR, size, credentials, clock)?;
        let now = clock.now();
        let slots = (0..size).map(|_| Slot::new(now)).collect();
        let share = |number: usize| {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            ARRIVAL * number / u32::try_from(size.max(1)).unwrap_or(u32::MAX)
        };
        Ok(Self {
            crowd,
            peers: Wire::open().context("open a socket for peers")?,
            slots,
            timers: (0..size)
                .map(|number| Reverse((now + share(number), number)))
                .collect(),
            next_to_ping: 0,
            counts: Counts::default(),
            failures: BTreeMap::new(),
            closed: false,
        })
    }

    /// Does what is due, and takes what has arrived; says how much that was.
    pub(super) fn turn(&mut self, now: Instant, random: &Random) -> Result<usize> {
        let mut done = self.exchange_packets(now)?;
        while let Some((who, ask, outcome)) = self.crowd.finished() {
            self.finished(who, ask, outcome, now, random)?;
            done += 1;
        }
        while let Some(Reverse((due, who))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            self.wake(who, now)?;
            done += 1;
        }
        Ok(done)
    }

    /// The next client that has an allocation sends a packet to its peer.
    pub(super) fn ping(&mut self, now: Instant, random: &Random) -> Result<()> {
        for _ in 0..self.slots.len() {
            let who = self.next_to_ping;
            self.next_to_ping = (who + 1) % self.slots.len();
            let Some(slot) = self
                .slots
                .get_mut(who)
                .filter(|slot| slot.state == State::Living)
            else {
                continue;
            };
            if slot.unanswered >= UNANSWERED && now > slot.heard + DEAF && !slot.is_lost {
                slot.is_lost = true;
                self.counts.lost += 1;
            }
            slot.unanswered += 1;
            let life = slot.life;
            return self.send_ping(who, life, random);
        }
        Ok(())
    }

    /// Somebody without the password asks for the end of an allocation, from its client's own address.
    pub(super) fn spoof(&mut self, number: u32, random: &Random) -> Result<()> {
        let number = usize::try_from(number).unwrap_or(0) % self.slots.len().max(1);
        self.counts.spoofed += 1;
        let request = flood::end_of_allocation(random);
        self.crowd.send_as(number, &request)
    }

    /// How many have an allocation that relays.
    pub(super) fn living(&self) -> usize {
        let slots = self.slots.iter();
        slots.filter(|slot| slot.state == State::Living).count()
    }

    /// What went wrong up to now.
    pub(super) fn failures(&self) -> String {
        let failures: Vec<_> = self
            .failures
            .iter()
            .map(|(what, count)| format!("{what}: {count}"))
            .collect();
        match (self.counts.lost, failures.as_slice()) {
            (0, []) => "no failures".to_owned(),
            (lost, failures) => format!("lost: {lost}; {}", failures.join("; ")),
        }
    }

    /// Refreshes and uses every allocation once more.
    pub(super) fn last_call(&mut self, clock: &Clock) -> Result<()> {
        self.closed = true;
        let random = Random::seeded(2);
        // those on their way arrive, or do not
        let end = clock.now() + LAST_CALL;
        let on_their_way =
            |slot: &Slot| matches!(slot.state, State::Coming | State::Leaving | State::Checking);
        while clock.now() < end
            && (self.crowd.under_way() > 0 || self.slots.iter().any(on_their_way))
        {
            self.turn(clock.now(), &random)?;
        }
        self.timers.clear();
        let living: Vec<_> = (0..self.slots.len())
            .filter(|who| self.is_living(*who))
            .collect();
        let asked_at = clock.now();
        for who in &living {
            self.crowd
                .start(*who, Ask::Refresh { lifetime: LIFETIME })?;
            self.turn(clock.now(), &random)?;
        }
        let mut waiting = living;
        let end = clock.now() + LAST_CALL;
        while clock.now() < end && (self.crowd.under_way() > 0 || !waiting.is_empty()) {
            waiting.retain(|who| {
                self.slots
                    .get(*who)
                    .is_some_and(|slot| slot.state == State::Living && slot.heard < asked_at)
            });
            for who in waiting.iter().copied() {
                let life = self.slots.get(who).map_or(0, |slot| slot.life);
                self.send_ping(who, life, &random)?;
                self.turn(clock.now(), &random)?;
            }
            for _ in 0..100 {
                self.turn(clock.now(), &random)?;
            }
        }
        for who in waiting {
            if let Some(slot) = self.slots.get_mut(who).filter(|slot| !slot.is_lost) {
                slot.is_lost = true;
                self.counts.lost += 1;
            }
        }
        Ok(())
    }

    /// Ends half of the allocations, lets the others expire, and waits for that.
    pub(super) fn leave(&mut self, clock: &Clock) -> Result<()> {
        let random = Random::seeded(3);
        let mut wait = LIFETIME;
        self.timers.clear();
        for who in 0..self.slots.len() {
            if !self.is_living(who) {
                continue;
            }
            if who % 2 == 0 {
                self.set_state(who, State::Leaving);
                end(&mut self.crowd, who)?;
                self.turn(clock.now(), &random)?;
            } else {
                self.set_state(who, State::Expired);
                wait = wait.max(self.promised(who));
            }
        }
        say(&format!(
            "half of the allocations are ended, the others expire within {wait:?}"
        ));
        let until = clock.now() + wait + GRACE;
        while clock.now() < until {
            if self.turn(clock.now(), &random)? == 0 {
                std::thread::sleep(super::NAP);
            }
        }
        Ok(())
    }

    pub(super) fn summary(&self) -> String {
        let counts = &self.counts;
        format!(
            "{} allocations were made, {} refreshes, {} were ended and {} seen to have expired; {} packets were sent to peers \
             and {} answers came back; {} times somebody without the password asked for the end of an allocation from its \
             client's address.",
            counts.allocations,
            counts.refreshes,
            counts.ended,
            counts.expired,
            counts.pings,
            counts.answers,
            counts.spoofed
        )
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        let requests: u64 = self.failures.values().sum();
        vec![
            Check::new(
                self.counts.lost == 0,
                format!(
                    "no allocation was lost: {} that were refreshed did not relay any more",
                    self.counts.lost
                ),
            ),
            Check::new(
                requests == 0,
                format!(
                    "every request was answered as it should be: {requests} were not ({})",
                    self.failures()
                ),
            ),
            Check::new(
                self.counts.allocations > 0 && self.counts.answers * 10 >= self.counts.pings * 9,
                format!(
                    "packets were relayed: {} of {} came back",
                    self.counts.answers, self.counts.pings
                ),
            ),
        ]
    }

    /// Peers send back what reaches them; clients note what comes back.
    fn exchange_packets(&mut self, now: Instant) -> Result<usize> {
        let Self {
            crowd,
            peers,
            slots,
            counts,
            ..
        } = self;
        let mut done = 0;
        crowd.poll(|packet| {
            done += 1;
            let Some((CHANNEL, data)) = channel_data(packet) else {
                return;
            };
            let Some((who, life)) = stamp_of(data) else {
                return;
            };
            if let Some(slot) = slots.get_mut(who).filter(|slot| slot.life == life) {
                slot.unanswered = 0;
                slot.heard = now;
                counts.answers += 1;
            }
        })?;
        let mut echoes = Vec::new();
        done += peers.receive(|packet| echoes.push(packet.to_vec()))?;
        for echo in echoes {
            let client =
                stamp_of(&echo).and_then(|(who, _)| Some((who, crowd.clients().get(who)?)));
            if let Some((who, client)) = client
                && let Some(relayed) = client.relayed
            {
                peers.send(Origin::PEERS.address(who), relayed, &echo)?;
            }
        }
        Ok(done)
    }

    fn send_ping(&mut self, who: usize, life: u32, random: &Random) -> Result<()> {
        let [high, low] = random.bytes::<2>();
        let size = STAMP + usize::from(u16::from_be_bytes([high, low])) % 1_000;
        let mut packet = channel_header(CHANNEL, size).to_vec();
        packet.extend(u32::try_from(who).unwrap_or(u32::MAX).to_be_bytes());
        packet.extend(life.to_be_bytes());
        packet.resize(CHANNEL_HEADER + size, 0x5A);
        self.counts.pings += 1;
        self.crowd.send_as(who, &packet)
    }

    /// The client's time for something has come.
    fn wake(&mut self, who: usize, now: Instant) -> Result<()> {
        let promised = self.promised(who);
        let Some(slot) = self.slots.get_mut(who) else {
            return Ok(());
        };
        let ask = match slot.state {
            State::Away | State::Expired if self.closed => return Ok(()),
            State::Away => {
                slot.state = State::Coming;
                Ask::Allocate { lifetime: LIFETIME }
            }
            State::Expired => {
                slot.state = State::Checking;
                Ask::Refresh { lifetime: LIFETIME }
            }
            State::Living if now >= slot.ends && slot.fate == Fate::Vanishes => {
                slot.state = State::Expired;
                let expired = slot.refreshed + promised + GRACE;
                self.timers.push(Reverse((expired, who)));
                return Ok(());
            }
            State::Living if now >= slot.ends => {
                slot.state = State::Leaving;
                Ask::Refresh {
                    lifetime: Duration::ZERO,
                }
            }
            State::Living if now >= slot.bound + REBIND => self.bind_ask(who),
            State::Living => Ask::Refresh { lifetime: LIFETIME },
            State::Checking | State::Coming | State::Leaving => return Ok(()),
        };
        self.crowd.start(who, ask)
    }

    /// A request has ended.
    fn finished(
        &mut self,
        who: usize,
        ask: Ask,
        outcome: Outcome,
        now: Instant,
        random: &Random,
    ) -> Result<()> {
        let bind = self.bind_ask(who);
        let Some(slot) = self.slots.get_mut(who) else {
            return Ok(());
        };
        let is_end = matches!(ask, Ask::Refresh { lifetime } if lifetime.is_zero());
        match (ask, outcome, slot.state) {
            (Ask::Allocate { .. }, Outcome::Granted, _) => {
                self.counts.allocations += 1;
                slot.begin(now, random);
                self.crowd.start(who, bind)?;
            }
            (Ask::Bind { .. }, Outcome::Granted, _) => {
                slot.state = State::Living;
                slot.bound = now;
                let next = slot.next_wake();
                self.timers.push(Reverse((next, who)));
            }
            (Ask::Refresh { .. }, Outcome::Granted, _) if is_end => {
                self.counts.ended += 1;
                slot.state = State::Away;
                self.come_back(who, now, random);
            }
            (Ask::Refresh { .. }, Outcome::Refused(437), State::Checking) => {
                self.counts.expired += 1;
                self.depart(who);
                self.wake(who, now)?;
            }
            (Ask::Refresh { .. }, Outcome::Granted, State::Checking) => {
                self.fail("an allocation outlived its lifetime".to_owned());
                end(&mut self.crowd, who)?;
                self.set_state(who, State::Leaving);
            }
            (Ask::Refresh { .. }, Outcome::Granted, _) => {
                self.counts.refreshes += 1;
                slot.refreshed = now;
                let next = slot.next_wake();
                self.timers.push(Reverse((next, who)));
            }
            (_, Outcome::Refused(_) | Outcome::Silence, _) => {
                let what = match ask {
                    Ask::Allocate { .. } => "Allocate",
                    Ask::Refresh { .. } => "Refresh",
                    Ask::Bind { .. } => "ChannelBind",
                };
                if matches!(ask, Ask::Refresh { .. }) && slot.state == State::Living {
                    self.counts.lost += u64::from(!slot.is_lost);
                }
                self.fail(format!("{what}: {outcome:?}"));
                self.depart(who);
                self.timers.push(Reverse((now + LIFETIME + GRACE, who)));
            }
        }
        Ok(())
    }

    /// For how long the server promised the allocation, last time.
    fn promised(&self, who: usize) -> Duration {
        let client = self.crowd.clients().get(who);
        client.map_or(LIFETIME, |client| client.lifetime)
    }

    fn bind_ask(&self, who: usize) -> Ask {
        Ask::Bind {
            channel: CHANNEL,
            peer: SocketAddrV4::new(Origin::PEERS.address(who), self.peers.port()),
        }
    }

    fn come_back(&mut self, who: usize, now: Instant, random: &Random) {
        let pause = Duration::from_secs_f64(1.0 + 19.0 * random.fraction());
        self.timers.push(Reverse((now + pause, who)));
    }

    /// There is no allocation any more.
    fn depart(&mut self, who: usize) {
        self.set_state(who, State::Away);
        if let Some(client) = self.crowd.client_mut(who) {
            client.forget();
        }
    }

    fn fail(&mut self, what: String) {
        *self.failures.entry(what).or_default() += 1;
    }

    fn is_living(&self, who: usize) -> bool {
        let slot = self.slots.get(who);
        slot.is_some_and(|slot| slot.state == State::Living)
    }

    fn set_state(&mut self, who: usize, state: State) {
        if let Some(slot) = self.slots.get_mut(who) {
            slot.state = state;
        }
    }
}

/// Asks for the end of a client's allocation.
fn end(crowd: &mut Crowd, who: usize) -> Result<()> {
    crowd.start(
        who,
        Ask::Refresh {
            lifetime: Duration::ZERO,
        },
    )
}

impl Slot {
    const fn new(now: Instant) -> Self {
        Self {
            state: State::Away,
            fate: Fate::Stays,
            life: 0,
            bound: now,
            refreshed: now,
            ends: now,
            unanswered: 0,
            heard: now,
            is_lost: false,
        }
    }

    /// A new allocation, and what becomes of it.
    fn begin(&mut self, now: Instant, random: &Random) {
        let (fate, seconds) = match random.fraction() {
            drawn if drawn < 0.2 => (Fate::Stays, 1e6),
            drawn if drawn < 0.7 => (Fate::Leaves, 10.0 + 110.0 * random.fraction()),
            _ => (Fate::Vanishes, LIFETIME.as_secs_f64() / 2.0),
        };
        *self = Self {
            state: State::Coming,
            fate,
            life: self.life.wrapping_add(1),
            ends: now + Duration::from_secs_f64(seconds),
            ..Self::new(now)
        };
    }

    /// When it has something to do again.
    fn next_wake(&self) -> Instant {
        match self.fate {
            Fate::Stays | Fate::Leaves => {
                let refresh = self.refreshed + LIFETIME / 2;
                refresh.min(self.bound + REBIND).min(self.ends)
            }
            Fate::Vanishes => self.ends,
        }
    }
}

/// Client and life that a packet names.
fn stamp_of(data: &[u8]) -> Option<(usize, u32)> {
    let (who, rest) = data.split_first_chunk()?;
    let life = rest.first_chunk()?;
    let who = usize::try_from(u32::from_be_bytes(*who)).ok()?;
    Some((who, u32::from_be_bytes(*life)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(fate: Fate) -> (Slot, Instant) {
        let now = Clock::manual(std::time::UNIX_EPOCH).now();
        let mut slot = Slot::new(now);
        slot.fate = fate;
        slot.ends = now + Duration::from_secs(45);
        (slot, now)
    }

    #[test]
    fn who_stays_refreshes_in_time_and_binds_before_the_permission_ends() {
        let (mut slot, now) = slot(Fate::Stays);
        slot.ends = now + Duration::from_hours(1);
        assert_eq!(slot.next_wake(), now + LIFETIME / 2);
        slot.refreshed = now + REBIND;
        assert_eq!(slot.next_wake(), now + REBIND);
    }

    #[test]
    fn who_leaves_wakes_for_it_and_who_vanishes_never_refreshes() {
        let (mut leaves, now) = slot(Fate::Leaves);
        leaves.refreshed = now + Duration::from_secs(30);
        assert_eq!(leaves.next_wake(), leaves.ends);
        let (vanishes, now) = slot(Fate::Vanishes);
        assert_eq!(vanishes.next_wake(), now + Duration::from_secs(45));
    }

    #[test]
    fn every_fate_is_drawn() {
        let random = Random::seeded(1);
        let (mut slot, now) = slot(Fate::Stays);
        let mut drawn = Vec::new();
        for life in 1..100 {
            slot.begin(now, &random);
            assert_eq!(slot.life, life);
            drawn.push(slot.fate);
        }
        for fate in [Fate::Stays, Fate::Leaves, Fate::Vanishes] {
            assert!(drawn.contains(&fate), "{fate:?}");
        }
    }

    #[test]
    fn a_packet_names_its_client_and_life() {
        assert_eq!(stamp_of(&[0, 0, 19, 136, 0, 0, 0, 7, 90]), Some((5000, 7)));
        assert_eq!(stamp_of(&[0, 0, 19, 136, 0, 0, 0]), None);
    }
}
