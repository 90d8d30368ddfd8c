//! `nocturne run`: both services, each in a process of its own, below a supervisor that reads neither
//! configuration.
//!
//! Who is notified and who calls must not meet in one memory, nor both services' keys. What the supervisor
//! knows is two paths, two process IDs and what the children say of themselves (`shared::supervised`).

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use shared::{
    environment::Environment,
    telemetry::{self, LogFormat},
};
use tracing::info;

use self::{
    service::{Patience, Service},
    supervisor::Supervisor,
};
use super::{PUSH_FILE, TURN_FILE, block_on_one_thread, configured, failed, sandboxed::Privileges};

mod service;
mod supervisor;

/// Run push gateway and TURN relay, supervised
///
/// Each is a process of its own; one that ends is started again, while the other goes on. SIGHUP is passed on
/// to both. SIGTERM is, too, and waits until both have finished what is under way; a second one stops them at
/// once.
///
/// Exit codes: 0 after a clean stop; 1 (or the service's own) if one of the services could not be started to
/// begin with; 3 if one had to be killed, or failed, while it stopped.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nocturne run --config-dir /etc/nocturne")]
pub(crate) struct Arguments {
    /// A folder with push-gateway.yaml, turn-relay.yaml or both in it; with one of them that service runs
    /// alone. Without it: /etc/nocturne, else ./config.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    #[command(flatten)]
    privileges: Privileges,
    /// The first pause before a service that ended is started again, in milliseconds. All other patience is
    /// a multiple of it.
    #[arg(long, value_name = "MS", hide = true, default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    first_pause: u64,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let found = match configured(arguments.config_dir.as_deref(), environment) {
        Ok(found) => found,
        Err(looked) => {
            return failed(&format!(
                "there is no {PUSH_FILE} and no {TURN_FILE} in {}; make them: \
                 nocturne init --server-name example.org --out {}",
                looked.join(" or "),
                looked[0]
            ));
        }
    };
    if let Err(problem) = telemetry::start("info", LogFormat::Auto, environment) {
        return failed(&problem);
    }
    let patience = Patience::with_first_pause(Duration::from_millis(arguments.first_pause));
    let mut services = Vec::new();
    for (subcommand, file) in [("push", PUSH_FILE), ("turn", TURN_FILE)] {
        let path = found.folder.join(file);
        if found.files.contains(&file) {
            services.push(Service::new(
                subcommand,
                path,
                arguments.privileges.arguments(),
                environment,
                patience,
            ));
        } else {
            info!(
                "there is no {}: `nocturne {subcommand}` is not started",
                path.display()
            );
        }
    }
    block_on_one_thread(async move {
        match Supervisor::new(services) {
            Ok(supervisor) => supervisor.run().await,
            Err(error) => failed(&format!("signals cannot be handled: {error}")),
        }
    })
}
