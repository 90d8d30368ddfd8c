//! `nocturne reader`: reads files for a service that cannot (`shared::files`). Services start it.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use shared::environment::Environment;

use super::{name_process, sandboxed};

/// Read files for a service that is sandboxed; services start it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Whose files.
    #[arg(value_enum)]
    service: Service,
    /// Its configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Service {
    Push,
    Turn,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    name_process(c"nocturne-reader");
    let path = &arguments.config;
    sandboxed::read_for(path, environment, |clock| match arguments.service {
        Service::Push => drop(push_gateway::config::load(path, environment, clock.wall())),
        Service::Turn => drop(turn_relay::config::load(path, environment, clock.wall())),
    })
}
