//! The floor: a loop that forwards packets and looks at none, in a process of its own.
//!
//! One `recv_from` and one `send_to` for each packet is what the simplest of relays cannot do without,
//! unless it reads and writes packets in batches.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::wire::enlarge_queues;

/// The process of the floor.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where packets come in.
    pub(crate) listen: SocketAddr,
    /// Where they go.
    pub(crate) to: SocketAddr,
}

/// Forwards until it is ended.
pub(crate) fn serve(arguments: &Arguments) -> Result<()> {
    let socket = UdpSocket::bind(arguments.listen).context("listen")?;
    enlarge_queues(&socket)?;
    let mut buffer = [0; 2048];
    loop {
        let (size, _) = socket.recv_from(&mut buffer)?;
        // a full queue at the receiver is the receiver's to count
        let _ = socket.send_to(buffer.get(..size).unwrap_or_default(), arguments.to);
    }
}
