//! The STUN message format (RFC 8489 §5, §14) and TURN's attributes (RFC 8656 §18), read without copying.
//!
//! Relayed data in channels is not STUN: see [`channel_data`].

pub mod attribute;
pub mod channel_data;
pub mod integrity;
mod message;
mod writer;

#[cfg(test)]
mod tests;

pub use attribute::AttributeType;
pub use message::{Class, Message, Method, ParseError, TransactionId};
pub use writer::MessageWriter;

/// Bytes of a STUN header, RFC 8489 §5.
pub const HEADER_LEN: usize = 20;
/// The fixed value after type and length, RFC 8489 §5.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// What the first byte of a packet says it is, RFC 7983 §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 0 to 3: STUN.
    Stun,
    /// 20 to 63: DTLS.
    Dtls,
    /// 64 to 79: TURN channel data.
    ChannelData,
    /// Anything else, or nothing.
    Unknown,
}

impl Kind {
    /// The kind of a packet that begins with `packet`'s first byte.
    #[must_use]
    pub const fn of(packet: &[u8]) -> Self {
        match packet.first() {
            Some(0..=3) => Self::Stun,
            Some(20..=63) => Self::Dtls,
            Some(64..=79) => Self::ChannelData,
            Some(_) | None => Self::Unknown,
        }
    }
}
