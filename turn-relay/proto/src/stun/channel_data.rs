//! Relayed data with a header of four bytes, RFC 8656 §12.4 to §12.7, and how messages follow each other on
//! a stream, RFC 8489 §6.2.2.

use super::{HEADER_LEN, Kind};

/// Bytes of a ChannelData header.
pub const CHANNEL_DATA_HEADER_LEN: usize = 4;

/// A channel number that clients may bind: 0x4000 to 0x4FFF, RFC 8656 §12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// `None` outside of the range.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            0x4000..=0x4FFF => Some(Self(number)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// Reads the header of a ChannelData message: the number, and how many bytes of data follow.
///
/// `None` if there are fewer than four bytes or the number is not one that clients may bind.
#[must_use]
pub fn read_header(bytes: &[u8]) -> Option<(ChannelNumber, usize)> {
    let &[n0, n1, l0, l1] = bytes.first_chunk::<CHANNEL_DATA_HEADER_LEN>()?;
    let number = ChannelNumber::new(u16::from_be_bytes([n0, n1]))?;
    Some((number, usize::from(u16::from_be_bytes([l0, l1]))))
}

/// The header for `len` bytes of data.
#[must_use]
pub const fn header(number: ChannelNumber, len: u16) -> [u8; CHANNEL_DATA_HEADER_LEN] {
    let [n0, n1] = number.0.to_be_bytes();
    let [l0, l1] = len.to_be_bytes();
    [n0, n1, l0, l1]
}

/// `len` and the padding that makes it a multiple of four, as streams need it.
#[must_use]
pub const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// What stands at the front of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Not enough bytes to say.
    Incomplete,
    /// A message of `len` bytes, which is followed by the next one after `padded_len` bytes. The message may
    /// not have arrived in full.
    Message {
        /// Bytes of the message, header included; at most 65,555.
        len: usize,
        /// `len`, and for ChannelData the padding.
        padded_len: usize,
    },
    /// Neither STUN nor ChannelData: nothing can be made of the rest of the stream.
    Garbage,
}

/// Finds the first message of a stream.
#[must_use]
pub fn frame(stream: &[u8]) -> Frame {
    let Some(&[_, _, l0, l1]) = stream.first_chunk::<4>() else {
        return match Kind::of(stream) {
            Kind::Stun | Kind::ChannelData => Frame::Incomplete,
            Kind::Dtls | Kind::Unknown if stream.is_empty() => Frame::Incomplete,
            Kind::Dtls | Kind::Unknown => Frame::Garbage,
        };
    };
    let body = usize::from(u16::from_be_bytes([l0, l1]));
    match Kind::of(stream) {
        Kind::Stun if body % 4 == 0 => Frame::Message {
            len: HEADER_LEN + body,
            padded_len: HEADER_LEN + body,
        },
        Kind::ChannelData => Frame::Message {
            len: CHANNEL_DATA_HEADER_LEN + body,
            padded_len: padded(CHANNEL_DATA_HEADER_LEN + body),
        },
        Kind::Stun | Kind::Dtls | Kind::Unknown => Frame::Garbage,
    }
}
