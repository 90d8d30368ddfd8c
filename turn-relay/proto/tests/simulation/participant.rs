//! A client with a script: where am I, may I come in, these are my peers, this is what I have to say, good-bye. It repeats over datagrams what is not
//! answered, as RFC 8489 §6.2.1 wants it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use turn_relay_proto::{
    FiveTuple, Time,
    address::{Family, Transport},
};

use crate::{
    network::PEERS,
    support::{
        client::{Client, Protection},
        random::Seeded,
        stun::{
            ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Decoded, Draft, MessageClass,
            REFRESH, SEND, attribute, channel_data,
        },
        world::{FromServer, World, socket},
    },
};

const FIRST_TIMEOUT: Duration = Duration::from_millis(500);
const TRANSMISSIONS: u32 = 7;
/// After the last of them, and on streams, RFC 8489 §6.2.1 and §6.2.2.
const PATIENCE: Duration = Duration::from_millis(39_500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Arriving,
    Talking,
    /// All is said; what is on its way still arrives.
    Listening,
    Leaving,
    Gone,
}

/// What a partner knows of somebody, by other ways than the relay.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    relayed: Vec<SocketAddr>,
    takes_from: BTreeSet<SocketAddr>,
    talks: bool,
}

/// One thing to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Binding,
    Challenge,
    Allocate,
    Permit,
    BindPeer,
    BindPartner(SocketAddr),
    Refresh,
    Delete,
}

struct Transaction {
    wish: Wish,
    bytes: Vec<u8>,
    sent: u32,
    next: Time,
}

pub(crate) struct Participant {
    pub(crate) client: Client,
    pub(crate) partner: usize,
    pub(crate) state: State,
    pub(crate) outbox: Vec<Vec<u8>>,
    number: usize,
    random: Seeded,
    wishes: VecDeque<Wish>,
    transaction: Option<Transaction>,
    relayed: Vec<SocketAddr>,
    /// Where the partner was when it was permitted.
    partner_at: Option<SocketAddr>,
    talks_until: Time,
    interval: Duration,
    next_word: Time,
    next_refresh: Time,
    next_permission: Time,
    next_channels: Time,
    leaves_at: Time,
    /// Payloads by number, to whom they went, and how often they came back or came to the partner.
    said: Vec<(SocketAddr, Vec<u8>)>,
    heard_back: BTreeMap<usize, u32>,
    heard_of_partner: BTreeMap<usize, u32>,
    /// Numbers of words that were said while the partner took them.
    said_to_partner: BTreeSet<usize>,
    mapped: Option<SocketAddr>,
    moved: u32,
    timeouts: u32,
}

impl Participant {
    pub(crate) fn new(
        world: &mut World,
        seed: u64,
        number: usize,
        partner: usize,
        transport: Transport,
        family: Family,
    ) -> Self {
        let mut random = Seeded::new(seed);
        let client = Client::over(world, &format!("user {number}"), transport, family);
        let protection = *random.pick(&Protection::ALL);
        let minutes = 5 + random.next() % 90;
        let never = Time::from_nanos(u64::MAX);
        Self {
            client: client.protected_by(protection).on_server(random.below(2)),
            partner,
            state: State::Arriving,
            outbox: Vec::new(),
            number,
            wishes: [Wish::Binding, Wish::Challenge, Wish::Allocate].into(),
            transaction: None,
            relayed: Vec::new(),
            partner_at: None,
            talks_until: world.now.time + Duration::from_secs(60 * minutes),
            interval: Duration::from_millis(minutes * 60 * 1000 / 100),
            next_word: never,
            next_refresh: never,
            next_permission: never,
            next_channels: never,
            leaves_at: never,
            said: Vec::new(),
            heard_back: BTreeMap::new(),
            heard_of_partner: BTreeMap::new(),
            said_to_partner: BTreeSet::new(),
            mapped: None,
            moved: 0,
            timeouts: 0,
            random,
        }
    }

    pub(crate) fn board(&self) -> Board {
        let talks = self.state == State::Talking || self.state == State::Listening;
        Board {
            relayed: self.relayed.clone(),
            takes_from: self.partner_at.into_iter().collect(),
            talks,
        }
    }

    /// When a request is to be sent again or given up.
    pub(crate) fn repeats_at(&self) -> Option<Time> {
        self.transaction
            .as_ref()
            .map(|transaction| transaction.next)
    }

    pub(crate) fn wakes_at(&self, now: Time) -> Time {
        let times = [
            self.next_word,
            self.next_refresh,
            self.next_permission,
            self.next_channels,
            self.leaves_at,
            now + Duration::from_secs(5),
        ];
        let soonest = times.into_iter().min().expect("there are some");
        soonest.max(now + Duration::from_millis(1))
    }

    /// Does what is to be done by now.
    pub(crate) fn wake(&mut self, world: &mut World, partner: &Board, fair: bool, now: Time) {
        self.repeat(world, fair, now);
        if self.state == State::Gone {
            return;
        }
        self.plan(partner, now);
        if self.transaction.is_none()
            && let Some(wish) = self.wishes.pop_front()
        {
            self.begin(wish, now);
        }
        if self.state == State::Talking && now >= self.next_word {
            self.talk(partner);
            self.next_word = now + self.interval;
        }
    }

    /// Sends a request again that was not answered, or gives it up.
    fn repeat(&mut self, world: &mut World, fair: bool, now: Time) {
        let stream = self.client.five_tuple.transport.is_stream();
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if now < transaction.next {
            return;
        }
        if !stream && transaction.sent < TRANSMISSIONS {
            transaction.sent += 1;
            transaction.next = now + FIRST_TIMEOUT * 2_u32.pow(transaction.sent - 1);
            self.outbox.push(transaction.bytes.clone());
            return;
        }
        assert!(
            !fair && !stream,
            "{:?} was never answered",
            transaction.wish
        );
        self.timeouts += 1;
        let wish = transaction.wish;
        self.transaction = None;
        match wish {
            // it may have been carried out; another address is sure to be free
            Wish::Allocate | Wish::Challenge => self.move_away(world),
            Wish::Delete => self.state = State::Gone,
            Wish::Binding
            | Wish::Permit
            | Wish::BindPeer
            | Wish::BindPartner(_)
            | Wish::Refresh => self.wishes.push_front(wish),
        }
    }

    /// Begins again from another port.
    fn move_away(&mut self, world: &mut World) {
        let FiveTuple {
            client, transport, ..
        } = self.client.five_tuple;
        self.client.five_tuple = world.five_tuple_over(transport, Family::of(client.ip()));
        self.moved += 1;
        self.relayed.clear();
        self.partner_at = None;
        self.transaction = None;
        self.state = State::Arriving;
        self.wishes = [Wish::Challenge, Wish::Allocate].into();
        self.next_refresh = Time::from_nanos(u64::MAX);
        self.next_permission = self.next_refresh;
        self.next_channels = self.next_refresh;
        self.next_word = self.next_refresh;
    }

    fn plan(&mut self, partner: &Board, now: Time) {
        let wants = |wishes: &VecDeque<Wish>, wish| wishes.contains(&wish);
        if now >= self.next_refresh && !wants(&self.wishes, Wish::Refresh) {
            self.wishes.push_back(Wish::Refresh);
            self.next_refresh = now + Duration::from_secs(480);
        }
        if now >= self.next_permission && !wants(&self.wishes, Wish::Permit) {
            self.wishes.push_back(Wish::Permit);
            self.next_permission = now + Duration::from_secs(200);
        }
        if now >= self.next_channels && !wants(&self.wishes, Wish::BindPeer) {
            self.wishes.push_back(Wish::BindPeer);
            if let Some(partner) = self.partner_at {
                self.wishes.push_back(Wish::BindPartner(partner));
            }
            self.next_channels = now + Duration::from_secs(220);
        }
        let partner_at = partner.relayed.first().copied();
        if self.state == State::Talking && self.partner_at.is_none() && partner_at.is_some() {
            self.partner_at = partner_at;
            self.wishes.extend(partner_at.map(Wish::BindPartner));
        }
        if self.state == State::Talking && now >= self.talks_until {
            self.state = State::Listening;
            self.leaves_at = now + Duration::from_secs(60);
        }
        if self.state == State::Listening && now >= self.leaves_at && self.transaction.is_none() {
            self.state = State::Leaving;
            self.wishes = [Wish::Delete].into();
        }
    }

    /// Makes the request for a wish and sends it.
    fn begin(&mut self, wish: Wish, now: Time) {
        // IDs from the seed, so that a run can be repeated
        let id = u128::from(self.random.next()) << 32 | u128::from(self.random.next() >> 32);
        let request = |method| Draft::new(MessageClass::Request, method, id & ((1 << 96) - 1));
        let signed = |draft| self.client.sign(draft);
        let bytes = match wish {
            Wish::Binding => request(BINDING).finish(),
            Wish::Challenge => request(ALLOCATE).transport(17).finish(),
            Wish::Allocate => signed(request(ALLOCATE).transport(17).additional_family(2)),
            Wish::Permit => {
                let peers = PEERS.iter().map(|peer| socket(peer)).chain(self.partner_at);
                signed(peers.fold(request(CREATE_PERMISSION), Draft::peer))
            }
            Wish::BindPeer => signed(request(CHANNEL_BIND).channel(0x4000).peer(socket(PEERS[0]))),
            Wish::BindPartner(at) => {
                // a number for each port, so that a partner who moved gets another
                let number = 0x4100 + at.port() % 0xE00;
                signed(request(CHANNEL_BIND).channel(number).peer(at))
            }
            Wish::Refresh => signed(request(REFRESH).lifetime(600)),
            Wish::Delete => signed(request(REFRESH).lifetime(0)),
        };
        self.outbox.push(bytes.clone());
        let stream = self.client.five_tuple.transport.is_stream();
        let patience = if stream { PATIENCE } else { FIRST_TIMEOUT };
        self.transaction = Some(Transaction {
            wish,
            bytes,
            sent: 1,
            next: now + patience,
        });
    }

    /// Takes a message; whether it was an answer, after which there may be something new to do.
    pub(crate) fn receive(&mut self, message: FromServer, now: Time) -> bool {
        let before = self.transaction.is_some();
        match message {
            FromServer::ChannelData(0x4000, data) => self.hear(socket(PEERS[0]), &data),
            FromServer::ChannelData(number, data) => {
                // of the partner; also one that has moved since
                let at = self.partner_at.expect("a channel was asked for");
                let bound = 0x4100 + at.port() % 0xE00;
                assert!(number == bound || self.moved > 0 || number > 0x4100);
                self.hear(at, &data);
            }
            FromServer::Stun(message) if message.class == MessageClass::Indication => {
                self.hear(message.peer(), message.data());
            }
            FromServer::Stun(answer) => self.take_answer(&answer, now),
        }
        before && self.transaction.is_none() && self.state != State::Gone
    }

    fn take_answer(&mut self, answer: &Decoded, now: Time) {
        let Some(transaction) = &self.transaction else {
            return; // to a copy
        };
        if answer.bytes[8..20] != transaction.bytes[8..20] {
            return;
        }
        let wish = transaction.wish;
        if !matches!(wish, Wish::Binding | Wish::Challenge) {
            self.client.check_answer(&transaction.bytes, answer);
        }
        self.transaction = None;
        match (wish, answer.code()) {
            (Wish::Binding, None) => self.mapped = Some(answer.mapped()),
            (Wish::Challenge, Some(401)) => self.client.remember(answer),
            (_, Some(438)) => {
                self.client.remember(answer);
                self.wishes.push_front(wish);
            }
            (Wish::Allocate, None) => {
                assert!(!answer.has(attribute::ADDRESS_ERROR_CODE));
                assert_eq!(answer.mapped(), self.client.five_tuple.client);
                self.relayed = answer.relayed();
                self.relayed.sort_by_key(SocketAddr::is_ipv6);
                self.state = State::Talking;
                self.wishes = [Wish::Permit, Wish::BindPeer].into();
                self.next_refresh = now + Duration::from_secs(480);
                self.next_permission = now + Duration::from_secs(200);
                self.next_channels = now + Duration::from_secs(220);
                self.next_word = now + Duration::from_secs(45);
            }
            (Wish::Delete, None | Some(437)) => self.state = State::Gone,
            (_, None) => {}
            (wish, Some(code)) => panic!("{wish:?} got {code}: {answer:?}"),
        }
    }

    /// One word to everybody: each says who speaks, which word it is, and something of any length.
    fn talk(&mut self, partner: &Board) {
        let mut to: Vec<_> = PEERS.iter().map(|peer| socket(peer)).collect();
        let mine = self.relayed.first().copied();
        to.extend(self.partner_at);
        for peer in to {
            let word = self.said.len();
            let mut payload = vec![u8::try_from(self.number).unwrap()];
            payload.extend(u32::try_from(word).unwrap().to_be_bytes());
            let more = self.random.below(300);
            payload.extend(self.random.bytes(more));
            let channel = if peer == socket(PEERS[0]) {
                Some(0x4000)
            } else if Some(peer) == self.partner_at && self.random.chance(50) {
                Some(0x4100 + peer.port() % 0xE00)
            } else {
                None
            };
            let bound = channel.filter(|_| self.wishes.is_empty() && self.transaction.is_none());
            self.outbox.push(match bound {
                Some(number) => channel_data(number, &payload),
                None => Draft::new(MessageClass::Indication, SEND, word as u128)
                    .peer(peer)
                    .data(&payload)
                    .finish(),
            });
            let quiet = self.wishes.is_empty() && self.transaction.is_none();
            if Some(peer) == self.partner_at
                && quiet
                && partner.talks
                && mine.is_some_and(|mine| partner.takes_from.contains(&mine))
            {
                self.said_to_partner.insert(word);
            }
            self.said.push((peer, payload));
        }
    }

    /// Data came: an own word that a peer sent back, or one of the partner's.
    fn hear(&mut self, from: SocketAddr, data: &[u8]) {
        let (head, _) = data.split_at(5);
        let speaker = usize::from(head[0]);
        let word = usize::try_from(u32::from_be_bytes(head[1..].try_into().unwrap())).unwrap();
        if speaker == self.number {
            let (to, payload) = &self.said[word];
            assert_eq!(
                (*to, payload.as_slice()),
                (from, data),
                "as it was said, by who got it"
            );
            *self.heard_back.entry(word).or_default() += 1;
        } else {
            assert_eq!(speaker, self.partner, "nobody else is permitted");
            *self.heard_of_partner.entry(word).or_default() += 1;
        }
    }

    /// Asserts what holds for this one alone.
    pub(crate) fn check(&self, fair: bool) {
        assert_eq!(self.state, State::Gone, "{} has left", self.number);
        assert!(
            self.said.len() > 100,
            "there was much to say: {}",
            self.said.len()
        );
        if !fair {
            assert!(!self.heard_back.is_empty());
            return;
        }
        assert_eq!((self.moved, self.timeouts), (0, 0));
        assert_eq!(self.mapped, Some(self.client.five_tuple.client));
        for (word, (to, _)) in self.said.iter().enumerate() {
            if PEERS.iter().any(|peer| socket(peer) == *to) {
                assert_eq!(
                    self.heard_back.get(&word),
                    Some(&1),
                    "word {word} to {to} of {}",
                    self.number
                );
            }
        }
        assert!(
            self.heard_back
                .values()
                .chain(self.heard_of_partner.values())
                .all(|count| *count == 1)
        );
    }

    /// Asserts that the partner got what was said while it listened.
    pub(crate) fn check_heard_by(&self, partner: &Self, fair: bool) {
        for word in partner.heard_of_partner.keys() {
            let (_, payload) = &self.said[*word];
            assert!(!payload.is_empty());
        }
        if fair {
            assert!(!self.said_to_partner.is_empty());
            let mut missed = self.said_to_partner.iter();
            let missed = missed.find(|word| !partner.heard_of_partner.contains_key(word));
            assert_eq!(
                missed, None,
                "{} got everything of {}",
                partner.number, self.number
            );
        }
    }
}
