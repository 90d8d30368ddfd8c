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
        /// Bytes of the message, header included; at most 65,552.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stun::{AttributeType, Class, MessageWriter, Method, TransactionId};

    #[test]
    fn numbers_that_clients_may_bind_are_0x4000_to_0x4fff() {
        for number in 0..=u16::MAX {
            let channel = ChannelNumber::new(number);
            assert_eq!(channel.is_some(), number >> 12 == 4);
            assert!(channel.is_none_or(|channel| channel.get() == number));
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for number in [0x4000, 0x4ABC, 0x4FFF].map(|number| ChannelNumber::new(number).unwrap()) {
            for len in [0, 1, 255, 256, u16::MAX] {
                let bytes = header(number, len);
                assert_eq!(read_header(&bytes), Some((number, usize::from(len))));
            }
        }
    }

    #[test]
    fn what_is_no_header_is_none() {
        for bytes in [
            [].as_slice(),
            &[0x40],
            &[0x40, 0, 0],
            &[0x3F, 0xFF, 0, 0],
            &[0x50, 0, 0, 0],
            &[0x7F, 0xFF, 0, 0],
            &[0, 1, 0, 0],
        ] {
            assert_eq!(read_header(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn padding_is_up_to_three_bytes() {
        for (len, with_padding) in [(0, 0), (1, 4), (2, 4), (3, 4), (4, 4), (5, 8)] {
            assert_eq!(padded(len), with_padding);
        }
    }

    #[test]
    fn the_longest_messages_are_framed() {
        let frame_of = |bytes: [u8; 4]| match frame(&bytes) {
            Frame::Message { len, padded_len } => Some((len, padded_len)),
            Frame::Incomplete | Frame::Garbage => None,
        };
        assert_eq!(frame_of([0, 1, 0xFF, 0xFC]), Some((65_552, 65_552)));
        assert_eq!(frame_of([0x40, 0, 0xFF, 0xFF]), Some((65_539, 65_540)));
        assert_eq!(frame_of([0x40, 0, 0, 0]), Some((4, 4)));
        assert_eq!(frame_of([0x40, 0, 0, 1]), Some((5, 8)));
        assert_eq!(frame_of([0, 1, 0, 0]), Some((20, 20)));
    }

    #[test]
    fn garbage_is_seen_at_its_first_byte_and_a_wrong_length_at_its_fourth() {
        for first in (4..64).chain(80..=255) {
            for len in 1..6 {
                assert_eq!(frame(&vec![first; len]), Frame::Garbage, "{len} of {first}");
            }
        }
        for length in [1, 2, 3, 5, 0xFF] {
            assert_eq!(frame(&[0, 1, 0]), Frame::Incomplete);
            assert_eq!(frame(&[0, 1, 0, length]), Frame::Garbage);
        }
        assert_eq!(frame(&[]), Frame::Incomplete);
    }

    proptest! {
        #[test]
        fn a_stream_is_split_where_its_messages_end(
            messages in prop::collection::vec(any_message(), 0..12),
            pieces in prop::collection::vec(1_usize..90, 1..200),
        ) {
            let stream: Vec<u8> = messages
                .iter()
                .flat_map(|message| {
                    let padding = padded(message.len()) - message.len();
                    message.iter().copied().chain(std::iter::repeat_n(0xEE, padding))
                })
                .collect();
            let mut rest = stream.as_slice();
            let mut arrived: Vec<u8> = Vec::new();
            let mut seen: Vec<Vec<u8>> = Vec::new();
            for piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                arrived.extend_from_slice(now);
                rest = later;
                loop {
                    match frame(&arrived) {
                        Frame::Message { len, padded_len } if arrived.len() >= padded_len => {
                            seen.push(arrived[..len].to_vec());
                            arrived.drain(..padded_len);
                        }
                        Frame::Message { len, padded_len } => {
                            // the same, however much of it is there
                            let first = frame(&arrived[..4]);
                            prop_assert_eq!(first, Frame::Message { len, padded_len });
                            break;
                        }
                        Frame::Incomplete => {
                            prop_assert!(arrived.len() < 4);
                            break;
                        }
                        Frame::Garbage => prop_assert!(false, "a message is no garbage"),
                    }
                }
            }
            prop_assert!(arrived.is_empty());
            prop_assert_eq!(seen, messages);
        }
    }

    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        let channel_data = (
            0x4000_u16..0x5000,
            prop::collection::vec(any::<u8>(), 0..60),
        )
            .prop_map(|(number, data)| {
                let len = u16::try_from(data.len()).unwrap();
                let header = header(ChannelNumber::new(number).unwrap(), len);
                [header.as_slice(), &data].concat()
            });
        let stun = prop::collection::vec(any::<u8>(), 0..60).prop_map(|data| {
            let mut bytes = Vec::new();
            let id = TransactionId([7; 12]);
            MessageWriter::new(&mut bytes, Class::Indication, Method::Send, id)
                .attribute(AttributeType::DATA, &data);
            bytes
        });
        prop_oneof![channel_data, stun]
    }
}
