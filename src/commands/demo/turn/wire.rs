//! What somebody sees who listens between a client and the relay: every byte that went there and back.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Before the content of a TLS record: its kind, a version, its length (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;

/// Which way something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the client to the relay.
    Sent,
    /// From the relay to the client.
    Received,
}

/// A datagram, or what a connection took or gave at once.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) direction: Direction,
    pub(super) bytes: Vec<u8>,
}

/// A TLS record, header included.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) direction: Direction,
    pub(super) bytes: Vec<u8>,
}

/// Takes down what goes over a wire.
#[derive(Clone, Debug, Default)]
pub(super) struct Tap(Arc<Mutex<Vec<Packet>>>);

/// A TCP connection with a tap on it, outside of TLS.
#[derive(Debug)]
pub(super) struct Tapped {
    pub(super) stream: TcpStream,
    pub(super) tap: Tap,
}

impl Tap {
    pub(super) fn note(&self, direction: Direction, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let bytes = bytes.to_vec();
        let mut packets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        packets.push(Packet { direction, bytes });
    }

    /// Everything so far.
    pub(super) fn packets(&self) -> Vec<Packet> {
        let packets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        packets.clone()
    }
}

/// The TLS records on a connection, in the order of their ends.
///
/// # Errors
///
/// What is there that is no whole TLS record.
pub(super) fn records(packets: &[Packet]) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for packet in packets {
        let direction = packet.direction;
        let unread = match direction {
            Direction::Sent => &mut sent,
            Direction::Received => &mut received,
        };
        unread.extend_from_slice(&packet.bytes);
        while let Some(&[kind, major, _, high, low]) = unread.first_chunk::<RECORD_HEADER>() {
            // change_cipher_spec, alert, handshake, application_data
            if !(20..=23).contains(&kind) || major != 3 {
                return Err(format!("bytes that are no TLS record: {kind} {major}"));
            }
            let len = RECORD_HEADER + usize::from(u16::from_be_bytes([high, low]));
            if unread.len() < len {
                break;
            }
            let bytes = unread.drain(..len).collect();
            records.push(Record { direction, bytes });
        }
    }
    let left = sent.len() + received.len();
    if left > 0 {
        return Err(format!("{left} bytes of a TLS record that does not end"));
    }
    Ok(records)
}

impl Record {
    /// What everybody can read of it.
    pub(super) fn kind(&self) -> &'static str {
        match self.bytes.first() {
            Some(22) => "greeting in clear",
            Some(20) => "sign for old middleboxes",
            Some(21) => "alert",
            Some(_) | None => "ciphertext",
        }
    }

    /// Whether its content is encrypted.
    pub(super) fn is_sealed(&self) -> bool {
        self.bytes.first() == Some(&23)
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        self.tap.note(Direction::Received, bytes);
        polled
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(taken)) = &polled {
            let bytes = bytes.get(..*taken).unwrap_or_default();
            self.tap.note(Direction::Sent, bytes);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(direction: Direction, bytes: &[u8]) -> Packet {
        let bytes = bytes.to_vec();
        Packet { direction, bytes }
    }

    #[test]
    fn records_are_found_however_they_are_cut() {
        let packets = [
            packet(Direction::Sent, &[22, 3, 1, 0, 2, 7]),
            packet(Direction::Received, &[23, 3]),
            packet(Direction::Sent, &[7, 20, 3, 3, 0, 1, 1]),
            packet(Direction::Received, &[3, 0, 1, 9]),
        ];
        let found = records(&packets).expect("they are whole");
        let kinds: Vec<_> = found.iter().map(|record| record.bytes[0]).collect();
        assert_eq!(kinds, [22, 20, 23]);
        assert!(found[2].is_sealed() && !found[0].is_sealed());
        assert!(records(&packets[..3]).is_err());
        assert!(records(&[packet(Direction::Sent, &[0, 3, 0, 8, 0])]).is_err());
    }
}
