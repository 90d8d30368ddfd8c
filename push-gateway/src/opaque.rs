//! Rotating identifiers: what a push is called towards its provider (spec/opaque-push.md §3).

use shared::{clock::Clock, random::Random};

use crate::config::OpaqueOptions;

/// One app's identifier keys: this epoch's, and for a minute the last one's.
#[derive(Debug)]
pub struct Identifiers {}

/// The notification identifier `n`: 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identifier(pub [u8; 16]);

impl Identifiers {
    /// Keys by an app's options: from `key_file`, else random and in memory only.
    #[must_use]
    pub fn new(options: &OpaqueOptions, clock: Clock, random: Random) -> Self {
        let _ = (options, clock, random);
        todo!("in work")
    }
}
