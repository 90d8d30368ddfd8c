//! A service as the child of `nocturne run`: what it tells its supervisor, and that it does not outlive it.
//!
//! Standard input is one end of a pair of sockets. What systemd would be told goes there, in systemd's words,
//! one a line. It ends when the supervisor does, however that ends: then the service ends, too. Where a
//! supervisor cannot tell more than that, there is nothing for a child to read.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::OnceLock,
    thread,
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::sync::watch;

/// How long the service has to end by itself once the supervisor is gone.
const GRACE: Duration = Duration::from_secs(2);

/// How long a supervisor that does not read may hold up what it is told.
const PATIENCE: Duration = Duration::from_millis(100);

static LINE: OnceLock<Line> = OnceLock::new();

/// The connection to the supervisor.
#[derive(Debug)]
struct Line {
    stream: UnixStream,
    is_gone: watch::Receiver<bool>,
}

/// Takes standard input for the line to the supervisor, and ends the process soon after the supervisor.
///
/// # Errors
///
/// When standard input is no socket, or no thread can be had.
pub fn begin() -> io::Result<()> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // also: is it a socket at all?
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut incoming = stream.try_clone()?;
    let (sender, is_gone) = watch::channel(false);
    thread::Builder::new()
        .name("supervised".to_owned())
        .spawn(move || {
            let mut ignored = [0; 64];
            while incoming.read(&mut ignored).is_ok_and(|length| length > 0) {}
            sender.send_replace(true);
            thread::sleep(GRACE);
            std::process::exit(1);
        })?;
    // A second call changes nothing.
    let _ = LINE.set(Line { stream, is_gone });
    Ok(())
}

/// Tells the supervisor; none when there is no supervisor.
pub(crate) fn tell(states: &[NotifyState<'_>]) -> Option<io::Result<()>> {
    let line = LINE.get()?;
    let mut message = Vec::new();
    let written = states
        .iter()
        .try_for_each(|state| writeln!(message, "{state}"));
    Some(written.and_then(|()| (&line.stream).write_all(&message)))
}

/// Waits until the supervisor is gone: for ever, where there is none.
pub(crate) async fn gone() {
    if let Some(line) = LINE.get() {
        let mut is_gone = line.is_gone.clone();
        if is_gone.wait_for(|gone| *gone).await.is_ok() {
            return;
        }
    }
    std::future::pending::<()>().await;
}
