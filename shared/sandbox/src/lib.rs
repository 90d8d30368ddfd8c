//! What a running service may still do.
//!
//! A service that has read its configuration and opened its sockets needs little: its sockets, the time,
//! memory, and a few public files. Everything else is given up, in two steps, for it is threads that have
//! rights:
//!
//! 1. [`enter`], before there are threads: files and TCP ports (landlock), capabilities.
//! 2. [`Entered::close`], when all sockets are open: the user, and the system calls (seccomp).
//!
//! The operator's own files are not among what can be read, not even the service's own: who reads them for it
//! is `shared::files`, from a process that gets into [`enter_as_reader`]. So a service that was taken over
//! cannot read the other service's keys in the same folder.
//!
//! Outside Linux there is nothing of it.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod system_calls;

#[cfg(target_os = "linux")]
pub use linux::{Entered, User, enter, enter_as_reader};

/// Why a service cannot give up what it should.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// `--user` names nobody.
    #[error("there is no user {0:?} here (name one of /etc/passwd, or numbers: UID:GID)")]
    UnknownUser(String),
    /// It is not root, and so cannot become somebody else.
    #[error(
        "only root can become the user {0:?} (start it as root, or as that user without --user)"
    )]
    NotRoot(String),
    /// The system refuses.
    #[error("the user cannot be changed: {0}")]
    Change(std::io::Error),
}

/// What a service needs once it runs.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// TCP ports that it listens on, 0 for one socket on whichever is free; none: it may listen on all.
    pub tcp_ports: Option<Vec<u16>>,
    /// Whether one of its ports, TCP or UDP, is below 1024.
    pub privileged_ports: bool,
    /// Folders with public files beside the usual ones, such as certificate authorities.
    pub folders: Vec<std::path::PathBuf>,
}
