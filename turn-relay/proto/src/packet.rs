//! A received packet in a buffer with space around it, so that headers are put on in place.

use std::ops::Range;

/// The space before a packet that the longest header takes: a Data indication's with an IPv6 peer address
/// (20 bytes of STUN header, 24 of XOR-PEER-ADDRESS, 4 of DATA).
pub const HEADROOM: usize = 48;

/// The space after a packet that padding takes.
pub const TAILROOM: usize = 3;

/// A packet, and how far around it the buffer may be overwritten.
///
/// Less space than [`HEADROOM`] and [`TAILROOM`] is allowed: then headers that do not fit are put on in a copy.
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    headroom: usize,
    tailroom: usize,
}

impl<'a> Packet<'a> {
    /// The packet at `range` of `buffer`, all of which may be overwritten.
    ///
    /// # Panics
    ///
    /// If the range is not within the buffer.
    pub fn new(buffer: &'a mut [u8], range: Range<usize>) -> Self {
        let (headroom, tailroom) = (range.start, buffer.len() - range.end);
        Self::with_rooms(buffer, range, headroom, tailroom)
    }

    /// The packet at `range` of `buffer`, of which `headroom` bytes before and `tailroom` bytes after may be
    /// overwritten: other packets may stand beyond.
    ///
    /// # Panics
    ///
    /// If these reach beyond the buffer.
    pub fn with_rooms(
        buffer: &'a mut [u8],
        range: Range<usize>,
        headroom: usize,
        tailroom: usize,
    ) -> Self {
        assert!(range.start <= range.end && headroom <= range.start);
        assert!(range.end + tailroom <= buffer.len());
        Self {
            buffer,
            start: range.start,
            end: range.end,
            headroom,
            tailroom,
        }
    }

    /// The packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.buffer.get(self.start..self.end);
        bytes.unwrap_or_default()
    }

    /// Where in the buffer the packet is.
    #[must_use]
    pub const fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The whole buffer.
    #[must_use]
    pub fn buffer(&self) -> &[u8] {
        self.buffer
    }

    /// Overwrites what is at `at` and before it with `header`, so that it ends at `at`, and puts up to three bytes of `padding` behind the packet.
    /// `None`, with nothing changed, if there is not enough space around the packet.
    ///
    /// `at` is a place in the buffer, not before the packet's start; the result is the range from the header's start to the padding's end.
    pub(crate) fn enclose(
        &mut self,
        header: &[u8],
        at: Range<usize>,
        padding: usize,
    ) -> Option<Range<usize>> {
        let start = at.start.checked_sub(header.len())?;
        let end = at.end + padding;
        if start + self.headroom < self.start || end > self.end + self.tailroom {
            return None;
        }
        self.buffer.get_mut(at.end..end)?.fill(0);
        self.buffer
            .get_mut(start..at.start)?
            .copy_from_slice(header);
        Some(start..end)
    }
}
