//! Rotating identifiers: what a push is called towards its provider (spec/opaque-push.md §3).
//!
//! Everything here is keyed with the key of the current epoch. Once that key is gone nobody can tell any
//! more which event, room or device an identifier stood for. A key that was drawn at random goes when its
//! epoch is over: at the next push, or at the next [`Identifiers::expire`].

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prometheus_client::metrics::counter::Counter;
use shared::{clock::Clock, epoch_key::EpochKey, random::Random, secret::Secret};
use tracing::warn;

use crate::config::OpaqueOptions;

/// One app's identifier keys.
pub struct Identifiers {
    keys: Keys,
    clock: Clock,
    random: Random,
    app: Arc<str>,
    set_back: Counter,
}

/// The notification identifier `n`: 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identifier(pub [u8; 16]);

/// Where the keys of the epochs come from.
enum Keys {
    /// Drawn at random.
    Random(EpochKey),
    /// Derived from a file, so that replicas agree. Their epochs are counted on the wall clock, from 1970 on.
    File {
        file_key: Arc<Secret<[u8; 32]>>,
        epoch_seconds: u64,
        current: ArcSwap<FileEpoch>,
    },
}

/// `hmac::Key` erases itself when dropped.
struct FileEpoch {
    key: hmac::Key,
    number: u64,
}

/// Keeps what is hashed for different purposes apart.
mod purpose {
    pub(super) const IDENTIFIER: &[u8] = &[1];
    pub(super) const COLLAPSE_TAG: &[u8] = &[2];
    pub(super) const EPOCH: &[u8] = b"nocturne epoch";
}

impl Identifiers {
    /// Keys by an app's options: from `key_file`, else random and in memory only.
    #[must_use]
    pub fn new(options: &OpaqueOptions, clock: Clock, random: Random) -> Self {
        let keys = match &options.key_file {
            None => Keys::Random(EpochKey::new(options.epoch, clock.clone(), random.clone())),
            Some(file_key) => {
                let epoch_seconds = options.epoch.as_secs().max(1);
                let number = clock.unix_seconds() / epoch_seconds;
                Keys::File {
                    file_key: Arc::clone(file_key),
                    epoch_seconds,
                    current: ArcSwap::from_pointee(FileEpoch::derive(file_key.expose(), number)),
                }
            }
        };
        Self {
            keys,
            clock,
            random,
            app: "".into(),
            set_back: Counter::default(),
        }
    }

    /// The same for this app in logs, and with this counter of the times that the clock was set back.
    #[must_use]
    pub fn counting(self, app: Arc<str>, set_back: Counter) -> Self {
        Self {
            app,
            set_back,
            ..self
        }
    }

    /// The identifier of one event for one device, the same for every try within an epoch.
    ///
    /// A try after the epoch has changed gets another one: the device then sees the event twice.
    #[must_use]
    pub fn for_event(&self, app_id: &str, pushkey: &str, event_id: &str) -> Identifier {
        Identifier(self.tag(&[
            purpose::IDENTIFIER,
            &len16(app_id),
            app_id.as_bytes(),
            &len16(pushkey),
            pushkey.as_bytes(),
            event_id.as_bytes(),
        ]))
    }

    /// An identifier of nothing: for a push without an event.
    #[must_use]
    pub fn random(&self) -> Identifier {
        Identifier(self.random.bytes())
    }

    /// The collapse tag of one room for one device, the same within an epoch: 22 characters of base64url.
    #[must_use]
    pub fn collapse_tag(&self, pushkey: &str, room_id: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.tag(&[
            purpose::COLLAPSE_TAG,
            &len16(pushkey),
            pushkey.as_bytes(),
            room_id.as_bytes(),
        ]))
    }

    /// Erases the random key of an epoch that is over.
    ///
    /// To be called about once a minute: without it the last key before a quiet time would stay in memory
    /// until the next push.
    pub fn expire(&self) {
        self.with_key(|_| ());
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; 16] {
        self.with_key(|key| truncated_hmac(key, parts))
    }

    /// Lends the key of the current epoch; moves on to the next epoch first if it is time.
    fn with_key<T>(&self, use_key: impl FnOnce(&hmac::Key) -> T) -> T {
        match &self.keys {
            Keys::Random(key) => key.with(use_key),
            Keys::File {
                file_key,
                epoch_seconds,
                current,
            } => {
                // In this order: then a lower number does not come from another thread that saw a later time.
                let loaded = current.load();
                let number = self.clock.unix_seconds() / epoch_seconds;
                if loaded.number == number {
                    return use_key(&loaded.key);
                }
                // Any other number, not only a higher one: the wall clock may have been set back.
                let derived = Arc::new(FileEpoch::derive(file_key.expose(), number));
                let before = current.compare_and_swap(&loaded, Arc::clone(&derived));
                if Arc::ptr_eq(&before, &loaded) && number < loaded.number {
                    self.set_back.inc();
                    warn!(
                        app = %self.app,
                        epochs = loaded.number - number,
                        "the clock was set back into an earlier epoch of `opaque.key_file`: identifiers of that \
                         epoch are in use again until it has caught up"
                    );
                }
                use_key(&derived.key)
            }
        }
    }
}

impl FileEpoch {
    fn derive(file_key: &[u8; 32], number: u64) -> Self {
        let file_key = hmac::Key::new(hmac::HMAC_SHA256, file_key);
        let mut context = hmac::Context::with_key(&file_key);
        context.update(purpose::EPOCH);
        context.update(&number.to_be_bytes());
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, context.sign().as_ref()),
            number,
        }
    }
}

impl Identifier {
    /// 22 characters of base64url.
    #[must_use]
    pub fn to_base64url(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The bytes as a UUID, lower case, for `apns-id`.
    #[must_use]
    pub fn to_uuid(self) -> String {
        let number = u128::from_be_bytes(self.0);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            number >> 96,
            (number >> 80) & 0xffff,
            (number >> 64) & 0xffff,
            (number >> 48) & 0xffff,
            number & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for Identifiers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Identifiers([hidden])")
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Identifier([hidden])")
    }
}

fn truncated_hmac(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 16] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let tag = context.sign();
    *tag.as_ref()
        .first_chunk()
        .expect("HMAC-SHA256 gives 32 bytes")
}

/// A big-endian 16-bit byte count. What is longer than it can say gets its highest value: no token is.
fn len16(text: &str) -> [u8; 2] {
    u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn random_keys(epoch: Duration) -> (Identifiers, Clock) {
        let clock = Clock::manual(noon());
        let options = OpaqueOptions {
            epoch,
            ..OpaqueOptions::default()
        };
        let identifiers = Identifiers::new(&options, clock.clone(), Random::seeded(1));
        (identifiers, clock)
    }

    fn file_keys(epoch: Duration, clock: &Clock, seed: u64) -> Identifiers {
        let options = OpaqueOptions {
            epoch,
            key_file: Some(Arc::new(Secret::new([7; 32]))),
            ..OpaqueOptions::default()
        };
        Identifiers::new(&options, clock.clone(), Random::seeded(seed))
    }

    fn event(identifiers: &Identifiers) -> Identifier {
        identifiers.for_event("org.example.app", "pushkey", "$event")
    }

    #[test]
    fn an_event_keeps_its_identifier_within_an_epoch_and_loses_it_after() {
        let (identifiers, clock) = random_keys(HOUR);
        let first = event(&identifiers);
        clock.advance(HOUR.saturating_sub(Duration::from_secs(1)));
        assert_eq!(event(&identifiers), first);
        clock.advance(Duration::from_secs(1));
        assert_ne!(event(&identifiers), first);
    }

    #[test]
    fn a_collapse_tag_changes_with_epoch_room_and_device_only() {
        let (identifiers, clock) = random_keys(HOUR);
        let first = identifiers.collapse_tag("pushkey", "!room");
        assert_eq!(first.len(), 22);
        assert_eq!(identifiers.collapse_tag("pushkey", "!room"), first);
        assert_ne!(identifiers.collapse_tag("pushkey", "!other"), first);
        assert_ne!(identifiers.collapse_tag("other", "!room"), first);
        clock.advance(HOUR);
        assert_ne!(identifiers.collapse_tag("pushkey", "!room"), first);
    }

    #[test]
    fn every_part_counts_and_parts_cannot_run_into_each_other() {
        let (identifiers, _) = random_keys(HOUR);
        let all = [
            identifiers.for_event("ab", "c", "d"),
            identifiers.for_event("a", "bc", "d"),
            identifiers.for_event("a", "b", "cd"),
            identifiers.for_event("ab", "cd", ""),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one));
        }
    }

    #[test]
    fn a_wall_clock_set_back_neither_panics_nor_changes_a_random_key() {
        let (identifiers, clock) = random_keys(HOUR);
        let first = event(&identifiers);
        clock.set_wall(UNIX_EPOCH - HOUR);
        assert_eq!(event(&identifiers), first);
    }

    #[test]
    fn an_endless_epoch_does_not_panic() {
        let (identifiers, clock) = random_keys(Duration::MAX);
        let first = event(&identifiers);
        clock.advance(1000 * HOUR);
        assert_eq!(event(&identifiers), first);
        let _ = event(&file_keys(Duration::MAX, &clock, 1));
        let _ = event(&file_keys(Duration::ZERO, &clock, 1));
    }

    #[test]
    fn replicas_with_one_key_file_agree_and_past_epochs_can_be_recomputed() {
        let clock = Clock::manual(noon());
        let one = file_keys(HOUR, &clock, 1);
        let other = file_keys(HOUR, &clock, 2);
        let first = event(&one);
        assert_eq!(event(&other), first);

        clock.advance(HOUR);
        assert_ne!(event(&one), first);
        clock.set_wall(noon());
        assert_eq!(event(&one), first);
        clock.set_wall(UNIX_EPOCH - HOUR);
        let _ = event(&one);
    }

    #[test]
    fn a_clock_that_goes_back_into_an_earlier_epoch_is_counted_once_each_time() {
        let clock = Clock::manual(noon());
        let set_back = Counter::default();
        let identifiers = file_keys(HOUR, &clock, 1).counting("app".into(), set_back.clone());
        let first = event(&identifiers);
        // within the epoch, and forwards: nothing to be said
        clock.set_wall(noon() + Duration::from_mins(1));
        clock.set_wall(noon());
        assert_eq!(event(&identifiers), first);
        clock.set_wall(noon() + 5 * HOUR);
        let later = event(&identifiers);
        assert_eq!(set_back.get(), 0);

        clock.set_wall(noon());
        for _ in 0..3 {
            assert_eq!(event(&identifiers), first);
            identifiers.expire();
        }
        assert_eq!(set_back.get(), 1);
        clock.set_wall(noon() + 5 * HOUR);
        assert_eq!(event(&identifiers), later);
        clock.set_wall(noon() + 4 * HOUR);
        identifiers.expire();
        assert_eq!(set_back.get(), 2);
    }

    #[test]
    fn one_step_back_is_counted_once_for_all_threads() {
        const ROUNDS: u32 = 2_000;
        const THREADS: u32 = 2;
        let clock = Clock::manual(noon());
        let set_back = Counter::default();
        let identifiers = file_keys(HOUR, &clock, 1).counting("app".into(), set_back.clone());
        let (round, done) = (AtomicU32::new(0), AtomicU32::new(0));
        // by turning round, since a thread that is woken up comes late
        let wait = |number: &AtomicU32, wanted| {
            while number.load(Ordering::SeqCst) < wanted {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for number in 1..=ROUNDS {
                        wait(&round, number);
                        identifiers.expire();
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for number in 1..=ROUNDS {
                clock.set_wall(noon() - number * HOUR);
                round.store(number, Ordering::SeqCst);
                wait(&done, number * THREADS);
            }
        });
        assert_eq!(set_back.get(), u64::from(ROUNDS));
    }

    #[test]
    fn random_keys_know_nothing_of_the_wall_clock() {
        let clock = Clock::manual(noon());
        let set_back = Counter::default();
        let options = OpaqueOptions::default();
        let identifiers = Identifiers::new(&options, clock.clone(), Random::seeded(1))
            .counting("app".into(), set_back.clone());
        let first = event(&identifiers);
        clock.set_wall(UNIX_EPOCH);
        assert_eq!(event(&identifiers), first);
        assert_eq!(set_back.get(), 0);
    }

    /// The formulas of the specification, written out in one piece.
    #[test]
    fn identifiers_are_what_the_specification_says() {
        fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            hmac::sign(&key, message).as_ref().to_vec()
        }

        let clock = Clock::manual(noon());
        let identifiers = file_keys(HOUR, &clock, 1);
        let mut label = b"nocturne epoch".to_vec();
        label.extend((1_700_000_000_u64 / 3600).to_be_bytes());
        let epoch_key = hmac_sha256(&[7; 32], &label);

        let n = hmac_sha256(
            &epoch_key,
            b"\x01\x00\x0forg.example.app\x00\x07pushkey$event",
        );
        let identifier = event(&identifiers);
        assert_eq!(identifier.0, n[..16]);
        assert_eq!(identifier.to_base64url(), URL_SAFE_NO_PAD.encode(&n[..16]));

        let tag = hmac_sha256(&epoch_key, b"\x02\x00\x07pushkey!room");
        assert_eq!(
            identifiers.collapse_tag("pushkey", "!room"),
            URL_SAFE_NO_PAD.encode(&tag[..16])
        );
    }

    #[test]
    fn an_identifier_is_written_as_base64url_and_as_a_uuid() {
        let identifier = Identifier([
            0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54,
            0x32, 0x10,
        ]);
        assert_eq!(identifier.to_uuid(), "01234567-89ab-cdef-fedc-ba9876543210");
        assert_eq!(identifier.to_base64url(), "ASNFZ4mrze_-3LqYdlQyEA");
    }

    #[test]
    fn a_pushkey_longer_than_its_length_field_does_not_panic() {
        let (identifiers, _) = random_keys(HOUR);
        let _ = identifiers.for_event("app", &"x".repeat(70_000), "$event");
    }

    #[test]
    fn threads_agree_on_the_next_key() {
        let (identifiers, clock) = random_keys(HOUR);
        clock.advance(HOUR);
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| event(&identifiers)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(all.iter().all(|one| *one == all[0]));
    }
}
