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
    address::FiveTuple, commons::Random, config::RelayAddress, quota::Account,
    stun::channel_data::ChannelNumber, time::Time,
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
    holds: BTreeMap<Hold, Option<ReservationToken>>,
    // the keys are drawn by this module
    reservations: HashMap<ReservationToken, Hold, foldhash::fast::FixedState>,
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
    /// (RFC 8656 §7.2).
    pub fn take_pair(
        &self,
        bind: IpAddr,
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
        state.hold(upper, Some(token));
        Some((port, token))
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
    fn hold(&mut self, hold: Hold, token: Option<ReservationToken>) {
        if let Some(pool) = self.pools.get_mut(hold.address) {
            pool.held.set(hold.port);
            self.holds.insert(hold, token);
            if let Some(token) = token {
                self.reservations.insert(token, hold);
            }
        }
    }

    fn release(&mut self, now: Time) {
        while let Some(entry) = self.holds.first_entry()
            && entry.key().until <= now
        {
            let (hold, token) = entry.remove_entry();
            if let Some(pool) = self.pools.get_mut(hold.address) {
                pool.held.clear(hold.port);
                pool.free.set(hold.port);
            }
            if let Some(token) = token {
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
