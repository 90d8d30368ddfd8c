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

    /// The identifier of one event for one device, the same for every try within an epoch.
    #[must_use]
    pub fn for_event(&self, app_id: &str, pushkey: &str, event_id: &str) -> Identifier {
        let _ = (app_id, pushkey, event_id);
        todo!("in work")
    }

    /// An identifier of nothing: for a push without an event.
    #[must_use]
    pub fn random(&self) -> Identifier {
        todo!("in work")
    }

    /// The collapse tag of one room for one device, the same within an epoch: 22 characters of base64url.
    #[must_use]
    pub fn collapse_tag(&self, pushkey: &str, room_id: &str) -> String {
        let _ = (pushkey, room_id);
        todo!("in work")
    }
}

impl Identifier {
    /// 22 characters of base64url.
    #[must_use]
    pub fn to_base64url(self) -> String {
        todo!("in work")
    }

    /// The bytes as a UUID, lower case, for `apns-id`.
    #[must_use]
    pub fn to_uuid(self) -> String {
        todo!("in work")
    }
}
