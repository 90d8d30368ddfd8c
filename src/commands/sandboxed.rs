//! How `nocturne push` and `nocturne turn` give up what they do not need, and the process that reads files
//! for them from then on.

use std::path::Path;

use clap::Args;
use shared::environment::Environment;

/// Who runs the service, and what it may do.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Privileges {
    /// Become this user once all sockets are open (a name, or UID:GID); takes root.
    ///
    /// Started by root without it, the service becomes the user `nocturne` if there is one.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Do not restrict the service to the files, ports and system calls that it needs (Linux: landlock,
    /// seccomp, capabilities).
    #[arg(long)]
    no_sandbox: bool,
}

/// What a service needs of its host.
#[derive(Debug)]
pub(super) struct Needs<'a> {
    /// The subcommand.
    pub(super) service: &'static str,
    pub(super) configuration: &'a Path,
    pub(super) environment: &'a Environment,
    /// TCP ports that it listens on; 0 for whichever is free.
    pub(super) tcp_ports: Vec<u16>,
    /// UDP ports that it listens on.
    pub(super) udp_ports: Vec<u16>,
}

impl Privileges {
    /// The arguments that say the same.
    pub(super) fn arguments(&self) -> Vec<String> {
        let user = self
            .user
            .iter()
            .flat_map(|user| ["--user".to_owned(), user.clone()]);
        let switch = self.no_sandbox.then(|| "--no-sandbox".to_owned());
        user.chain(switch).collect()
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{enter, read_for};

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io::ErrorKind,
        os::{
            fd::{AsFd as _, OwnedFd},
            unix::{net::UnixStream, process::CommandExt as _},
        },
        path::PathBuf,
        process::{Command, ExitCode, Stdio},
        time::Duration,
    };

    use sandbox::{Entered, User};
    use shared::{clock::Clock, files};
    use tokio::signal::unix::{SignalKind, signal};
    use tracing::{error, warn};

    use super::{Environment, Needs, Path, Privileges};
    use crate::commands::{block_on_one_thread, failed, program};

    /// Whom root becomes without being told.
    const USUAL_USER: &str = "nocturne";

    /// Where the C library finds name servers.
    const NAME_SERVERS: &str = "/etc/resolv.conf";

    /// How often it is looked whether that can still be read, and how often that is said.
    const LOOK: Duration = Duration::from_secs(10);
    const SAY_AGAIN: Duration = Duration::from_hours(1);

    /// Ports that take a capability.
    const PRIVILEGED: std::ops::Range<u16> = 1..1024;

    /// What is still to be given up when all sockets are open.
    #[derive(Debug)]
    #[must_use = "it is given up by close()"]
    pub(in crate::commands) struct Closing(Entered);

    impl Closing {
        /// Gives it up. On a runtime, for what is to be watched from then on.
        pub(in crate::commands) fn close(self) -> Result<(), String> {
            self.0.close().map_err(|problem| problem.to_string())?;
            tokio::spawn(watch_names());
            Ok(())
        }
    }

    /// Says so when names cannot be looked up any more. Landlock's rule is for the file that was there at the
    /// start; the C library makes do without the new one, and asks a server that is not there.
    async fn watch_names() {
        let mut looks = tokio::time::interval(LOOK);
        let mut last_said = None;
        loop {
            let now = looks.tick().await;
            let opened = std::fs::File::open(NAME_SERVERS);
            if !opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
                last_said = None;
            } else if last_said.is_none_or(|last| now >= last + SAY_AGAIN) {
                error!(
                    "{NAME_SERVERS} was replaced, and landlock keeps this process from the new one: host names cannot \
                     be looked up until the service is restarted"
                );
                last_said = Some(now);
            }
        }
    }

    /// Gives up what is needed no more once the configuration was read. There must be one thread.
    pub(in crate::commands) fn enter(
        privileges: &Privileges,
        needs: &Needs<'_>,
    ) -> Result<Closing, String> {
        let user = match &privileges.user {
            Some(name) => Some(User::find(name).map_err(|problem| problem.to_string())?),
            None if rustix::process::geteuid().is_root() => User::find(USUAL_USER).ok(),
            None => None,
        };
        if privileges.no_sandbox {
            warn!("--no-sandbox: this process is not restricted");
            let entered = Entered::only_as(user).map_err(|problem| problem.to_string())?;
            return Ok(Closing(entered));
        }
        let reader = start_reader(needs)
            .map_err(|error| format!("the process that reads files cannot be started: {error}"))?;
        let ports = || needs.tcp_ports.iter().chain(&needs.udp_ports);
        let folders = needs.environment.get("SSL_CERT_DIR");
        let wanted = sandbox::Needs {
            // The relay's threads share the one that the first of them gets.
            tcp_ports: Some(needs.tcp_ports.clone()).filter(|ports| !ports.contains(&0)),
            privileged_ports: ports().any(|port| PRIVILEGED.contains(port)),
            folders: folders.map(PathBuf::from).into_iter().collect(),
        };
        let entered = sandbox::enter(&wanted, user).map_err(|problem| problem.to_string())?;
        files::ask_for_files(reader);
        Ok(Closing(entered))
    }

    fn start_reader(needs: &Needs<'_>) -> std::io::Result<UnixStream> {
        let (stream, readers_end) = UnixStream::pair()?;
        Command::new(program()?)
            .arg0("nocturne")
            .args(["reader", needs.service, "--config"])
            .arg(needs.configuration)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::from(OwnedFd::from(readers_end)))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(stream)
    }

    /// Is the reader: `load` is what the service does with its configuration.
    pub(in crate::commands) fn read_for(
        configuration: &Path,
        environment: &Environment,
        load: impl Fn(&Clock),
    ) -> ExitCode {
        let stream = std::io::stdin().as_fd().try_clone_to_owned();
        let stream = match stream.map(UnixStream::from) {
            Ok(stream) => stream,
            Err(error) => return failed(&format!("standard input cannot be used: {error}")),
        };
        block_on_one_thread(async {
            // It ends when the service does, which may still be busy when all processes of a unit are
            // signalled.
            let ignored = [
                SignalKind::hangup(),
                SignalKind::terminate(),
                SignalKind::interrupt(),
            ]
            .map(signal);
            sandbox::enter_as_reader();
            let authorities = environment.get("SSL_CERT_FILE").map(PathBuf::from);
            let always: Vec<_> = authorities
                .into_iter()
                .chain([configuration.to_owned()])
                .collect();
            let clock = Clock::system();
            let ended = files::hand_out(stream, &always, || load(&clock));
            drop(ignored);
            // The service sees it, and says so.
            if ended.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        })
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::enter;

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{Needs, Privileges};

    /// Nothing.
    #[derive(Debug)]
    pub(in crate::commands) struct Closing;

    impl Closing {
        #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as on Linux")]
        pub(in crate::commands) fn close(self) -> Result<(), String> {
            Ok(())
        }
    }

    pub(in crate::commands) fn enter(
        privileges: &Privileges,
        needs: &Needs<'_>,
    ) -> Result<Closing, String> {
        let Needs {
            service: _,
            configuration: _,
            environment: _,
            tcp_ports: _,
            udp_ports: _,
        } = needs;
        match &privileges.user {
            Some(_) => Err("--user is for Linux".to_owned()),
            None => Ok(Closing),
        }
    }
}
