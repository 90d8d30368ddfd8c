//! A homeserver that has one answer, and gives it after a set time.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::process::Process;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 81\r\n\r\n\
    {\"user_id\":\"@alice:matrix.example.org\",\"is_guest\":false,\"device_id\":\"ABCDEFGHIJ\"}";

/// The process of the homeserver.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long it takes to answer, in microseconds.
    delay: u64,
}

/// A running homeserver; it ends when this is dropped.
pub(crate) struct Homeserver {
    pub(crate) address: SocketAddr,
    process: Process,
}

impl Homeserver {
    pub(crate) fn start(delay: Duration) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["homeserver", &delay.as_micros().to_string()])
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command).context("start the homeserver")?;
        let stdout = process.child().stdout.take().context("it has an output")?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address)?;
        Ok(Self {
            address: address.trim().parse().context("the homeserver's address")?,
            process,
        })
    }

    /// CPU time up to now.
    pub(crate) fn cpu(&self) -> Duration {
        self.process.usage().cpu
    }
}

/// Answers until it is ended. A thread for each connection: the timers of tokio are no finer than a millisecond.
pub(crate) fn serve(arguments: &Arguments) -> Result<()> {
    let delay = Duration::from_micros(arguments.delay);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    writeln!(io::stdout().lock(), "{}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || answer(stream, delay));
    }
}

/// Answers one request after the other, until the connection ends.
fn answer(mut stream: TcpStream, delay: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = vec![0; 8192];
    let mut read = 0;
    loop {
        let more = stream.read(request.get_mut(read..).unwrap_or_default())?;
        if more == 0 {
            return Ok(());
        }
        read += more;
        if request
            .get(..read)
            .is_some_and(|head| head.ends_with(b"\r\n\r\n"))
        {
            read = 0;
            thread::sleep(delay);
            stream.write_all(ANSWER)?;
        }
    }
}
