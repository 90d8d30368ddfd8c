//! Relayed ports: which are free, which are held for a RESERVATION-TOKEN, and which client is behind one.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;

use crate::{
    address::FiveTuple,
    commons::Random,
    config::RelayAddress,
    quota::{Account, UserId},
    stun::channel_data::ChannelNumber,
    time::Time,
};

/// How long a port is held for a token, RFC 8656 §7.2.
const RESERVED: Duration = Duration::from_secs(30);
/// How long a port is left alone that something else on this host has.
const ASIDE: Duration = Duration::from_secs(1);

/// The value of RESERVATION-TOKEN, RFC 8656 §18.10. Whoever has it gets the port: `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReservationToken(pub [u8; 8]);

impl std::fmt::Debug for ReservationToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReservationToken")
    }
}

/// Which ports a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// Any.
    Any,
    /// An even one, RFC 8656 §18.7.
    Even,
}

/// All ports of all relay addresses.
///
/// Ports are drawn at random among the free ones (RFC 6056), and one is found as long as one is free. Methods without a note take a lock: they are for
/// allocations, not for packets.
pub struct Ports {
    /// The lowest port of the range.
    first: u16,
    addresses: Box<[Address]>,
    state: Mutex<State>,
}

/// One relay address, and who is behind its ports.
struct Address {
    relay: RelayAddress,
    /// By the distance from the lowest port.
    crossings: Box<[ArcSwapOption<Crossing>]>,
}

/// What is free and what is held. A port that is neither is taken.
struct State {
    /// In the order of [`Ports::addresses`].
    pools: Box<[Pool]>,
    /// Held ports, by the moment at which they are free again, and for what.
    holds: BTreeMap<Hold, Option<Reservation>>,
    // the keys are drawn by this module
    reservations: HashMap<ReservationToken, Hold, foldhash::fast::FixedState>,
}

/// What a port is held for.
#[derive(Clone, Copy)]
struct Reservation {
    token: ReservationToken,
    /// Whose request holds it.
    user: UserId,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hold {
    until: Time,
    address: usize,
    port: u16,
}

struct Pool {
    free: Bits,
    held: Bits,
}

impl Ports {
    /// Ports of `range` on each of `addresses`, all of them free. Port 0 is left out, and so is an address that is
    /// advertised as one before it is.
    #[must_use]
    pub fn new(addresses: &[RelayAddress], range: RangeInclusive<u16>) -> Self {
        let range = (*range.start()).max(1)..=*range.end();
        let mut unique: Vec<RelayAddress> = Vec::new();
        for address in addresses {
            if unique
                .iter()
                .all(|other| other.advertised != address.advertised && other.bind != address.bind)
            {
                unique.push(*address);
            }
        }
        let pool = || {
            let mut free = Bits::new(&range);
            range.clone().for_each(|port| free.set(port));
            Pool {
                free,
                held: Bits::new(&range),
            }
        };
        Self {
            first: *range.start(),
            state: Mutex::new(State {
                pools: unique.iter().map(|_| pool()).collect(),
                holds: BTreeMap::new(),
                reservations: HashMap::default(),
            }),
            addresses: unique
                .into_iter()
                .map(|relay| Address {
                    relay,
                    crossings: range.clone().map(|_| ArcSwapOption::empty()).collect(),
                })
                .collect(),
        }
    }

    /// Takes a free port of the address that sockets are bound to.
    pub fn take(
        &self,
        bind: IpAddr,
        parity: Parity,
        now: Time,
        random: &mut impl Random,
    ) -> Option<u16> {
        let address = self.index(bind)?;
        let choice = match parity {
            Parity::Any => Choice::Any,
            Parity::Even => Choice::Even,
        };
        self.lock_at(now).draw(address, choice, random)
    }

    /// Takes a free even port, and holds the one above it for whoever shows the token within 30 seconds
    /// (RFC 8656 §7.2). `user` is who asks.
    pub fn take_pair(
        &self,
        bind: IpAddr,
        user: UserId,
        now: Time,
        random: &mut impl Random,
    ) -> Option<(u16, ReservationToken)> {
        let address = self.index(bind)?;
        let mut state = self.lock_at(now);
        let mut token = ReservationToken([0; 8]);
        random.fill(&mut token.0);
        if state.reservations.contains_key(&token) {
            return None;
        }
        let port = state.draw(address, Choice::Pair, random)?;
        let upper = Hold {
            until: now + RESERVED,
            address,
            port: port.checked_add(1)?,
        };
        state.pools.get_mut(address)?.free.clear(upper.port);
        state.hold(upper, Some(Reservation { token, user }));
        Some((port, token))
    }

    /// How many ports are held by requests of `user`.
    #[must_use]
    pub fn reserved_by(&self, user: UserId, now: Time) -> usize {
        let state = self.lock_at(now);
        let reservations = state.holds.values().flatten();
        reservations.filter(|held| held.user == user).count()
    }

    /// Takes the port that is held for `token`, once.
    pub fn take_reserved(&self, token: ReservationToken, now: Time) -> Option<(IpAddr, u16)> {
        let mut state = self.lock_at(now);
        let hold = state.reservations.remove(&token)?;
        state.holds.remove(&hold);
        state.pools.get_mut(hold.address)?.held.clear(hold.port);
        let bind = self.addresses.get(hold.address)?.relay.bind;
        Some((bind, hold.port))
    }

    /// A taken port is free again, and nobody is behind it.
    pub fn give_back(&self, bind: IpAddr, port: u16) {
        let Some(address) = self.empty(bind, port) else {
            return;
        };
        let mut state = self.lock();
        if state.is_taken(address, port)
            && let Some(pool) = state.pools.get_mut(address)
        {
            pool.free.set(port);
        }
    }

    /// As [`Self::give_back`], but the port is not given to anybody for a second: something else on this host has it.
    pub fn set_aside(&self, bind: IpAddr, port: u16, now: Time) {
        let Some(address) = self.empty(bind, port) else {
            return;
        };
        let mut state = self.lock();
        if state.is_taken(address, port) {
            let until = now + ASIDE;
            state.hold(
                Hold {
                    until,
                    address,
                    port,
                },
                None,
            );
        }
    }

    /// Whether clients are told of relayed transport addresses on `ip`, so that other clients may be reached there. Takes no lock.
    #[must_use]
    pub fn is_advertised(&self, ip: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|address| address.relay.advertised == ip)
    }

    /// Tells all threads who is behind the relayed transport address `relayed` (as advertised), or that it is
    /// nobody that could be reached straight.
    pub fn publish(&self, relayed: SocketAddr, crossing: Option<Arc<Crossing>>) {
        if let Some(cell) = self.cell(relayed) {
            cell.store(crossing);
        }
    }

    /// Who is behind a relayed transport address (as advertised). Takes no lock.
    #[must_use]
    pub fn crossing(&self, relayed: SocketAddr) -> Option<arc_swap::Guard<Option<Arc<Crossing>>>> {
        self.cell(relayed).map(ArcSwapOption::load)
    }

    fn cell(&self, relayed: SocketAddr) -> Option<&ArcSwapOption<Crossing>> {
        self.addresses
            .iter()
            .find(|address| address.relay.advertised == relayed.ip())
            .and_then(|address| self.cell_of(address, relayed.port()))
    }

    fn cell_of<'a>(&self, address: &'a Address, port: u16) -> Option<&'a ArcSwapOption<Crossing>> {
        let distance = port.checked_sub(self.first)?;
        address.crossings.get(usize::from(distance))
    }

    /// Takes away who is behind a port, and tells the place of its address.
    fn empty(&self, bind: IpAddr, port: u16) -> Option<usize> {
        let index = self.index(bind)?;
        self.cell_of(self.addresses.get(index)?, port)?.store(None);
        Some(index)
    }

    fn index(&self, bind: IpAddr) -> Option<usize> {
        self.addresses
            .iter()
            .position(|address| address.relay.bind == bind)
    }

    /// The state, in which nothing is held any more whose time is over.
    fn lock_at(&self, now: Time) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.release(now);
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows no address and no port.
impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

impl State {
    /// Takes one of the ports that are free and fit.
    fn draw(&mut self, address: usize, choice: Choice, random: &mut impl Random) -> Option<u16> {
        let free = &mut self.pools.get_mut(address)?.free;
        let nth = below(free.count(choice), random)?;
        let port = free.nth(choice, nth)?;
        free.clear(port);
        Some(port)
    }

    fn is_taken(&self, address: usize, port: u16) -> bool {
        self.pools
            .get(address)
            .is_some_and(|pool| !pool.free.contains(port) && !pool.held.contains(port))
    }

    /// Holds a port that is not free.
    fn hold(&mut self, hold: Hold, reservation: Option<Reservation>) {
        if let Some(pool) = self.pools.get_mut(hold.address) {
            pool.held.set(hold.port);
            self.holds.insert(hold, reservation);
            if let Some(Reservation { token, .. }) = reservation {
                self.reservations.insert(token, hold);
            }
        }
    }

    fn release(&mut self, now: Time) {
        while let Some(entry) = self.holds.first_entry()
            && entry.key().until <= now
        {
            let (hold, reservation) = entry.remove_entry();
            if let Some(pool) = self.pools.get_mut(hold.address) {
                pool.held.clear(hold.port);
                pool.free.set(hold.port);
            }
            if let Some(Reservation { token, .. }) = reservation {
                self.reservations.remove(&token);
            }
        }
    }
}

/// Which of the free ports fit.
#[derive(Clone, Copy)]
enum Choice {
    Any,
    Even,
    /// Even ones with a free one above them.
    Pair,
}

impl Choice {
    /// The bits of `free` that fit. Even ports have even places, so that a pair is in one word.
    const fn of(self, free: u64) -> u64 {
        const EVEN: u64 = 0x5555_5555_5555_5555;
        match self {
            Self::Any => free,
            Self::Even => free & EVEN,
            Self::Pair => free & (free >> 1) & EVEN,
        }
    }
}

/// A bit for each port of a range.
struct Bits {
    /// The port of the first bit; even.
    base: u16,
    words: Box<[u64]>,
}

impl Bits {
    /// All of them clear.
    fn new(range: &RangeInclusive<u16>) -> Self {
        let base = range.start() & !1;
        let count = if range.is_empty() {
            0
        } else {
            usize::from(range.end() - base) + 1
        };
        Self {
            base,
            words: vec![0; count.div_ceil(64)].into_boxed_slice(),
        }
    }

    fn set(&mut self, port: u16) {
        if let Some((word, bit)) = self.place(port)
            && let Some(word) = self.words.get_mut(word)
        {
            *word |= bit;
        }
    }

    fn clear(&mut self, port: u16) {
        if let Some((word, bit)) = self.place(port)
            && let Some(word) = self.words.get_mut(word)
        {
            *word &= !bit;
        }
    }

    fn contains(&self, port: u16) -> bool {
        self.place(port)
            .is_some_and(|(word, bit)| self.words.get(word).is_some_and(|word| word & bit != 0))
    }

    fn place(&self, port: u16) -> Option<(usize, u64)> {
        let distance = port.checked_sub(self.base)?;
        Some((usize::from(distance / 64), 1 << (distance % 64)))
    }

    fn count(&self, choice: Choice) -> u32 {
        self.words
            .iter()
            .map(|word| choice.of(*word).count_ones())
            .sum()
    }

    /// The port of the bit that has `nth` others before it, of those that fit.
    fn nth(&self, choice: Choice, mut nth: u32) -> Option<u16> {
        for (index, word) in self.words.iter().enumerate() {
            let mut fitting = choice.of(*word);
            let count = fitting.count_ones();
            if nth < count {
                (0..nth).for_each(|_| fitting &= fitting - 1);
                let distance = index * 64 + usize::try_from(fitting.trailing_zeros()).ok()?;
                return self.base.checked_add(u16::try_from(distance).ok()?);
            }
            nth -= count;
        }
        None
    }
}

/// A number below `count`, all of them as likely as can be seen: off by 2^-32 at most.
fn below(count: u32, random: &mut impl Random) -> Option<u32> {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    let product = u128::from(u64::from_le_bytes(bytes)) * u128::from(count);
    u32::try_from(product >> 64).ok().filter(|_| count > 0)
}

/// What another client's packet has to know to go straight to the client behind a relayed transport address.
///
/// Published whenever it changes, and only by allocations with a permission for one of the relay's own addresses.
pub struct Crossing {
    /// The client.
    pub client: FiveTuple,
    /// Addresses from which the client takes packets, and until when; only those of the relay's own.
    pub permissions: Box<[(IpAddr, Time)]>,
    /// Channels that are bound to relayed transport addresses of this relay, and until when.
    pub channels: Box<[(SocketAddr, ChannelNumber, Time)]>,
    /// Until when the allocation lives.
    pub expires: Time,
    /// Whose bandwidth it is.
    pub account: Arc<Account>,
}

/// Shows no address.
impl std::fmt::Debug for Crossing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crossing").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        address::{Link, Transport},
        commons::testing::Repeatable,
        quota::Ledger,
    };

    #[test]
    fn every_port_is_found_and_none_twice() {
        for range in [
            49152..=65535,
            50000..=50000,
            50001..=50001,
            50001..=50064,
            65533..=65535,
            1..=65535,
        ] {
            let (ports, mut random) = (ports(&range), Repeatable(1));
            let taken: BTreeSet<u16> =
                std::iter::from_fn(|| take(&ports, Parity::Any, 0, &mut random)).collect();
            assert_eq!(taken, range.collect());
        }
    }

    #[test]
    fn every_even_port_is_found_and_no_odd_one() {
        for range in [50000..=50201, 50001..=50202, 50001..=50001] {
            let (ports, mut random) = (ports(&range), Repeatable(2));
            let taken: BTreeSet<u16> =
                std::iter::from_fn(|| take(&ports, Parity::Even, 0, &mut random)).collect();
            assert_eq!(taken, range.filter(|port| port % 2 == 0).collect());
        }
    }

    #[test]
    fn every_pair_is_found_and_no_half_of_one() {
        for (range, pairs) in [
            (50000..=50099, 50),
            (50001..=50099, 49),
            (50000..=50098, 49),
            (50001..=50002, 0),
            (65534..=65535, 1),
            (65535..=65535, 0),
        ] {
            let (ports, mut random) = (ports(&range), Repeatable(3));
            let taken: BTreeSet<u16> = std::iter::from_fn(|| {
                Some(ports.take_pair(BIND, alice(), time(0), &mut random)?.0)
            })
            .collect();
            assert_eq!(taken.len(), pairs, "{range:?}");
            assert!(
                taken
                    .iter()
                    .all(|port| port % 2 == 0 && range.contains(&(port + 1)))
            );
        }
    }

    #[test]
    fn no_port_is_zero_and_an_empty_range_has_none() {
        let mut random = Repeatable(4);
        let zero = ports(&(0..=1));
        assert_eq!(take(&zero, Parity::Any, 0, &mut random), Some(1));
        assert_eq!(take(&zero, Parity::Any, 0, &mut random), None);
        #[expect(clippy::reversed_empty_ranges, reason = "what a caller could give")]
        for range in [0..=0, 2..=1, 60000..=50000] {
            let ports = ports(&range);
            assert_eq!(take(&ports, Parity::Any, 0, &mut random), None);
            assert!(ports.crossing(relayed(1)).is_none());
        }
    }

    #[test]
    fn ports_are_drawn_evenly() {
        let range = 50000..=50099;
        let mut random = Repeatable(5);
        let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
        let ports = ports(&range);
        // with some ports of each word taken, so that what is left is uneven
        let kept: Vec<u16> = (0..40)
            .filter_map(|_| take(&ports, Parity::Any, 0, &mut random))
            .collect();
        for _ in 0..60_000 {
            let port = take(&ports, Parity::Any, 0, &mut random).unwrap();
            *counts.entry(port).or_default() += 1;
            ports.give_back(BIND, port);
        }
        assert_eq!(counts.len(), 60);
        assert!(kept.iter().all(|port| !counts.contains_key(port)));
        // 1,000 each are expected, with a standard deviation of 31
        assert!(
            counts.values().all(|count| (850..1_150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_draw_is_the_randomness_that_was_given() {
        let first = |seed| {
            take(
                &ports(&(49152..=65535)),
                Parity::Any,
                0,
                &mut Repeatable(seed),
            )
        };
        assert_eq!(first(6), first(6));
        let different: HashSet<_> = (0..100).map(first).collect();
        assert!(different.len() > 95);
    }

    #[test]
    fn a_port_that_was_given_back_is_free_again() {
        let (ports, mut random) = (ports(&(50000..=50001)), Repeatable(7));
        assert!(take(&ports, Parity::Any, 0, &mut random).is_some());
        assert!(take(&ports, Parity::Any, 0, &mut random).is_some());
        ports.give_back(BIND, 50001);
        assert_eq!(take(&ports, Parity::Even, 0, &mut random), None);
        assert_eq!(take(&ports, Parity::Any, 0, &mut random), Some(50001));
    }

    #[test]
    fn what_is_not_there_is_not_given_back() {
        let (ports, mut random) = (ports(&(50000..=50001)), Repeatable(8));
        ports.give_back(BIND, 49999);
        ports.give_back(BIND, 50002);
        ports.give_back("192.0.2.99".parse().unwrap(), 50000);
        ports.set_aside(BIND, 50002, time(0));
        // nor set aside: it is free, and may be somebody else's by now
        ports.set_aside(BIND, 50000, time(0));
        assert!(take(&ports, Parity::Any, 0, &mut random).is_some());
        assert!(take(&ports, Parity::Any, 0, &mut random).is_some());
        assert_eq!(take(&ports, Parity::Any, 9_999, &mut random), None);
        assert_eq!(
            ports.take(
                "192.0.2.99".parse().unwrap(),
                Parity::Any,
                time(0),
                &mut random
            ),
            None
        );
    }

    #[test]
    fn the_port_above_is_held_for_thirty_seconds() {
        let (ports, mut random) = (ports(&(50000..=50001)), Repeatable(9));
        let (port, token) = ports
            .take_pair(BIND, alice(), time(5_000), &mut random)
            .unwrap();
        assert_eq!(port, 50000);
        // not even what has no business with it makes it free
        ports.give_back(BIND, 50001);
        ports.set_aside(BIND, 50001, time(5_000));
        assert_eq!(take(&ports, Parity::Any, 34_999, &mut random), None);
        assert_eq!(take(&ports, Parity::Any, 35_000, &mut random), Some(50001));
        // and then the token is worth nothing, also when the port is free again
        ports.give_back(BIND, 50001);
        assert_eq!(ports.take_reserved(token, time(35_000)), None);
    }

    #[test]
    fn a_token_gives_its_port_once() {
        let (ports, mut random) = (ports(&(50000..=50003)), Repeatable(10));
        let (port, token) = ports
            .take_pair(BIND, alice(), time(0), &mut random)
            .unwrap();
        let (other_port, other_token) = ports
            .take_pair(BIND, alice(), time(0), &mut random)
            .unwrap();
        assert_eq!(ports.take_reserved(ReservationToken([0; 8]), time(0)), None);
        assert_eq!(
            ports.take_reserved(token, time(29_999)),
            Some((BIND, port + 1))
        );
        assert_eq!(ports.take_reserved(token, time(29_999)), None);
        assert_eq!(
            ports.take_reserved(other_token, time(29_999)),
            Some((BIND, other_port + 1))
        );
        // it is an ordinary taken port now, without an end
        assert_eq!(take(&ports, Parity::Any, 99_000, &mut random), None);
        ports.give_back(BIND, port + 1);
        assert_eq!(
            take(&ports, Parity::Any, 99_000, &mut random),
            Some(port + 1)
        );
    }

    #[test]
    fn a_token_has_no_time_left_after_thirty_seconds() {
        let (ports, mut random) = (ports(&(50000..=50001)), Repeatable(11));
        let (_, token) = ports
            .take_pair(BIND, alice(), time(0), &mut random)
            .unwrap();
        assert_eq!(ports.take_reserved(token, time(30_000)), None);
        assert_eq!(take(&ports, Parity::Any, 30_000, &mut random), Some(50001));
    }

    #[test]
    fn there_are_no_more_tokens_than_pairs_and_none_is_kept_after_its_time() {
        let (ports, mut random) = (ports(&(50000..=50099)), Repeatable(12));
        for round in 0..1_000 {
            // each takes a pair, and gives back what it took: by token, or when its time is over
            while let Some((port, token)) =
                ports.take_pair(BIND, alice(), time(round * 40), &mut random)
            {
                ports.give_back(BIND, port);
                if port % 3 == 0 {
                    let (_, reserved) = ports.take_reserved(token, time(round * 40)).unwrap();
                    ports.give_back(BIND, reserved);
                    break;
                }
            }
            let state = ports.lock();
            assert!(state.holds.len() <= 50);
            assert_eq!(state.holds.len(), state.reservations.len());
        }
        assert!(
            ports
                .take_pair(BIND, alice(), time(999_999), &mut random)
                .is_some()
        );
        assert_eq!(ports.lock().reservations.len(), 1);
    }

    #[test]
    fn randomness_that_gives_a_token_twice_gives_no_port_away() {
        struct Stuck;
        impl Random for Stuck {
            fn fill(&mut self, bytes: &mut [u8]) {
                bytes.fill(7);
            }
        }
        let ports = ports(&(50000..=50099));
        let (port, token) = ports.take_pair(BIND, alice(), time(0), &mut Stuck).unwrap();
        assert_eq!(ports.take_pair(BIND, alice(), time(0), &mut Stuck), None);
        assert_eq!(ports.take_reserved(token, time(0)), Some((BIND, port + 1)));
    }

    #[test]
    fn a_port_that_something_else_has_is_left_alone_for_a_second() {
        let (ports, mut random) = (ports(&(50000..=50001)), Repeatable(13));
        assert!(take(&ports, Parity::Even, 0, &mut random).is_some());
        ports.set_aside(BIND, 50000, time(5_000));
        ports.set_aside(BIND, 50000, time(5_500));
        ports.give_back(BIND, 50000);
        assert_eq!(take(&ports, Parity::Even, 5_999, &mut random), None);
        assert_eq!(take(&ports, Parity::Even, 6_000, &mut random), Some(50000));
    }

    #[test]
    fn addresses_have_ports_of_their_own() {
        let addresses = [
            relay("10.0.0.1", "192.0.2.1"),
            relay("2001:db8::1", "2001:db8::1"),
        ];
        let (ports, mut random) = (Ports::new(&addresses, 50000..=50001), Repeatable(14));
        for address in addresses {
            let (port, token) = ports
                .take_pair(address.bind, alice(), time(0), &mut random)
                .unwrap();
            assert_eq!(port, 50000);
            assert_eq!(
                ports.take_reserved(token, time(0)),
                Some((address.bind, 50001))
            );
        }
        ports.give_back(addresses[1].bind, 50000);
        assert_eq!(
            ports.take(addresses[0].bind, Parity::Any, time(0), &mut random),
            None
        );
        assert_eq!(
            ports.take(addresses[1].bind, Parity::Any, time(0), &mut random),
            Some(50000)
        );
        // by what sockets are bound to, not by what is advertised
        assert_eq!(
            ports.take(addresses[0].advertised, Parity::Any, time(0), &mut random),
            None
        );
        assert!(ports.is_advertised("192.0.2.1".parse().unwrap()));
        assert!(ports.is_advertised("2001:db8::1".parse().unwrap()));
        assert!(!ports.is_advertised("10.0.0.1".parse().unwrap()));
        assert!(!ports.is_advertised("192.0.2.2".parse().unwrap()));
    }

    #[test]
    fn an_address_that_is_named_twice_counts_once() {
        let addresses = [
            relay("10.0.0.1", "192.0.2.1"),
            relay("10.0.0.1", "192.0.2.1"),
            relay("10.0.0.2", "192.0.2.1"),
            relay("10.0.0.1", "192.0.2.2"),
        ];
        let (ports, mut random) = (Ports::new(&addresses, 50000..=50000), Repeatable(15));
        let mut take =
            |address: &RelayAddress| ports.take(address.bind, Parity::Any, time(0), &mut random);
        assert_eq!(take(&addresses[0]), Some(50000));
        // otherwise two allocations were told of one relayed transport address
        assert_eq!(addresses.iter().find_map(take), None);
        assert_eq!(ports.addresses.len(), 1);
    }

    #[test]
    fn who_is_behind_a_port_is_known_until_it_is_given_back() {
        let (ports, mut random) = (ports(&(50000..=50009)), Repeatable(16));
        let port = take(&ports, Parity::Any, 0, &mut random).unwrap();
        assert!(behind(&ports, port).is_none());
        ports.publish(relayed(port), Some(crossing(1)));
        ports.publish(relayed(port), Some(crossing(2)));
        assert_eq!(behind(&ports, port), Some(crossing(2).client));
        ports.publish(relayed(port), None);
        assert!(behind(&ports, port).is_none());

        ports.publish(relayed(port), Some(crossing(3)));
        ports.give_back(BIND, port);
        assert!(behind(&ports, port).is_none());

        while take(&ports, Parity::Any, 0, &mut random).is_some() {}
        ports.publish(relayed(port), Some(crossing(4)));
        ports.set_aside(BIND, port, time(0));
        assert!(behind(&ports, port).is_none());
    }

    #[test]
    fn nobody_is_behind_what_is_no_relayed_transport_address() {
        let ports = ports(&(50000..=50009));
        for address in [
            "192.0.2.1:49999",
            "192.0.2.1:50010",
            "192.0.2.1:0",
            "192.0.2.2:50000",
            "10.0.0.1:50000",
        ] {
            let address = address.parse().unwrap();
            ports.publish(address, Some(crossing(1)));
            assert!(ports.crossing(address).is_none(), "{address}");
        }
        assert!(ports.crossing(relayed(50000)).is_some());
        assert!(ports.crossing(relayed(50009)).is_some());
    }

    #[test]
    fn the_table_is_as_large_as_the_range() {
        let ports = ports(&(50000..=50009));
        assert_eq!(
            size_of_val(&*ports.addresses[0].crossings),
            10 * size_of::<usize>()
        );
    }

    #[test]
    fn no_address_is_shown() {
        let ports = ports(&(50000..=50009));
        let token = ReservationToken(*b"01234567");
        assert_eq!(
            format!("{ports:?}, {token:?}"),
            "Ports { .. }, ReservationToken"
        );
        assert_eq!(format!("{:?}", crossing(1)), "Crossing { .. }");
    }

    #[test]
    fn threads_never_get_the_same_port() {
        let ports = ports(&(50000..=50999));
        let taken: Vec<u16> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|seed| {
                    let ports = &ports;
                    scope.spawn(move || {
                        let mut random = Repeatable(seed);
                        std::iter::from_fn(|| take(ports, Parity::Any, 0, &mut random))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(taken.len(), 1_000);
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 1_000);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(Parity),
        TakePair,
        TakeReserved(usize),
        GiveBack(usize),
        SetAside(usize),
        Wait(u64),
    }

    /// What a port is, written as simply as possible.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Model {
        Free,
        Taken,
        HeldUntil(Time),
    }

    proptest! {
        #[test]
        fn ports_do_what_a_list_of_them_would(
            first in 50000_u16..50003,
            count in 1_u16..140,
            seed in any::<u64>(),
            steps in prop::collection::vec(step(), 1..400),
        ) {
            let range = first..=first + count - 1;
            let (ports, mut random) = (ports(&range), Repeatable(seed));
            let mut model: BTreeMap<u16, Model> =
                range.clone().map(|port| (port, Model::Free)).collect();
            let mut tokens: Vec<(ReservationToken, u16, Time)> = Vec::new();
            let mut now = time(0);
            for step in steps {
                for state in model.values_mut() {
                    if matches!(*state, Model::HeldUntil(until) if until <= now) {
                        *state = Model::Free;
                    }
                }
                let free = |port: u16| model.get(&port) == Some(&Model::Free);
                let pick = |n: usize| {
                    let taken: Vec<u16> = model
                        .iter()
                        .filter_map(|(port, state)| (*state == Model::Taken).then_some(*port))
                        .collect();
                    taken.get(n % taken.len().max(1)).copied()
                };
                match step {
                    Step::Take(parity) => {
                        let fits = |port: u16| {
                            free(port) && (parity == Parity::Any || port.is_multiple_of(2))
                        };
                        let port = ports.take(BIND, parity, now, &mut random);
                        prop_assert_eq!(port.is_some(), range.clone().any(fits));
                        if let Some(port) = port {
                            prop_assert!(fits(port));
                            model.insert(port, Model::Taken);
                        }
                    }
                    Step::TakePair => {
                        let fits = |port: u16| {
                            port.is_multiple_of(2) && free(port) && free(port + 1)
                        };
                        let pair = ports.take_pair(BIND, alice(), now, &mut random);
                        prop_assert_eq!(pair.is_some(), range.clone().any(fits));
                        if let Some((port, token)) = pair {
                            prop_assert!(fits(port));
                            let until = now + Duration::from_secs(30);
                            model.insert(port, Model::Taken);
                            model.insert(port + 1, Model::HeldUntil(until));
                            tokens.push((token, port + 1, until));
                        }
                    }
                    Step::TakeReserved(n) if !tokens.is_empty() => {
                        let (token, port, until) = tokens.swap_remove(n % tokens.len());
                        let expected = (now < until).then_some((BIND, port));
                        prop_assert_eq!(ports.take_reserved(token, now), expected);
                        if expected.is_some() {
                            model.insert(port, Model::Taken);
                        }
                    }
                    Step::GiveBack(n) => if let Some(port) = pick(n) {
                        ports.give_back(BIND, port);
                        model.insert(port, Model::Free);
                    }
                    Step::SetAside(n) => if let Some(port) = pick(n) {
                        ports.set_aside(BIND, port, now);
                        model.insert(port, Model::HeldUntil(now + Duration::from_secs(1)));
                    }
                    Step::TakeReserved(_) => {}
                    Step::Wait(millis) => now = now + Duration::from_millis(millis),
                }
            }
            // whatever happened: when all is given back and no hold lasts, all are free
            for port in model.keys() {
                ports.give_back(BIND, *port);
            }
            now = now + Duration::from_secs(30);
            let all = std::iter::from_fn(|| ports.take(BIND, Parity::Any, now, &mut random));
            prop_assert_eq!(all.count(), usize::from(count));
            prop_assert!(ports.lock().holds.is_empty() && ports.lock().reservations.is_empty());
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Take(Parity::Any)),
            2 => Just(Step::Take(Parity::Even)),
            3 => Just(Step::TakePair),
            2 => any::<usize>().prop_map(Step::TakeReserved),
            4 => any::<usize>().prop_map(Step::GiveBack),
            1 => any::<usize>().prop_map(Step::SetAside),
            2 => prop_oneof![0_u64..2_000, 28_000_u64..31_000].prop_map(Step::Wait),
        ]
    }

    const BIND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn alice() -> UserId {
        Ledger::new([1; 32]).identify(b"alice")
    }

    fn ports(range: &RangeInclusive<u16>) -> Ports {
        Ports::new(&[relay("10.0.0.1", "192.0.2.1")], range.clone())
    }

    fn relay(bind: &str, advertised: &str) -> RelayAddress {
        RelayAddress {
            bind: bind.parse().unwrap(),
            advertised: advertised.parse().unwrap(),
        }
    }

    fn take(ports: &Ports, parity: Parity, millis: u64, random: &mut Repeatable) -> Option<u16> {
        ports.take(BIND, parity, time(millis), random)
    }

    fn behind(ports: &Ports, port: u16) -> Option<FiveTuple> {
        let crossing = ports.crossing(relayed(port)).unwrap();
        crossing.as_ref().map(|crossing| crossing.client)
    }

    fn relayed(port: u16) -> SocketAddr {
        SocketAddr::new("192.0.2.1".parse().unwrap(), port)
    }

    fn crossing(client: u16) -> Arc<Crossing> {
        let ledger = Ledger::new([1; 32]);
        let quotas = crate::config::Quotas {
            allocations_per_user: 1,
            allocations_total: 1,
            permissions_per_allocation: 1,
            channels_per_allocation: 1,
            bandwidth_per_user: None,
            unauthenticated_per_prefix: 1,
        };
        let admission = ledger.admit(ledger.identify(b"alice"), &quotas).unwrap();
        Arc::new(Crossing {
            client: FiveTuple {
                client: SocketAddr::new("198.51.100.1".parse().unwrap(), client),
                link: Link(0),
                transport: Transport::Udp,
            },
            permissions: Box::default(),
            channels: Box::default(),
            expires: time(0),
            account: Arc::clone(admission.account()),
        })
    }

    fn time(millis: u64) -> Time {
        Time::default() + Duration::from_millis(millis)
    }
}
