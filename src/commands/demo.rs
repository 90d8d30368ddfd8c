//! `nocturne demo`: what each party sees of a notification, on loopback.

use std::process::ExitCode;

use clap::Args;

use super::failed;

/// Show on this machine alone what Apple, Google and a push service see
///
/// Starts stand-ins for them and a gateway on loopback, sends a notification as Synapse does, and
/// prints who saw what. Exit code 0 only if every step was seen to work.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nocturne demo")]
pub(crate) struct Arguments {}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let _ = arguments;
    failed("in work")
}
