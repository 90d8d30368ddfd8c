//! Names for logs that change at each start, for things whose own names must not be written down.

use std::fmt;

use aws_lc_rs::hmac;

use crate::random::Random;

/// Gives each value a name that is the same for as long as the process runs.
#[derive(Clone, Debug)]
pub struct Pseudonyms(hmac::Key);

/// Eight hexadecimal characters (spec/opaque-push.md §8).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pseudonym([u8; 4]);

impl Pseudonyms {
    /// With a fresh key, which lives in memory alone.
    #[must_use]
    pub fn new(random: &Random) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &random.bytes::<32>()))
    }

    /// The value's name.
    #[must_use]
    pub fn of(&self, value: &str) -> Pseudonym {
        let tag = hmac::sign(&self.0, value.as_bytes());
        let mut name = [0; 4];
        name.iter_mut()
            .zip(tag.as_ref())
            .for_each(|(to, from)| *to = *from);
        Pseudonym(name)
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Pseudonym {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
