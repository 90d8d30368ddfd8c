//! `nocturne credentials`: a fresh TURN credential.

use std::{io, path::PathBuf, process::ExitCode};

use clap::Args;
use shared::{clock::Clock, environment::Environment, random::Random};
use turn_relay::{
    config::{self, Loaded},
    credentials::{self, Settings},
};

use super::{failed, refused, say, turn::default_path};

/// Print a fresh TURN credential as JSON
///
/// It is good at every relay that has the newest secret of the configuration, and needs none to be running:
/// username, password, for how many seconds, and the URIs to connect to. Whoever has it can relay.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nocturne credentials --config turn-relay.yaml --user alice")]
pub(crate) struct Arguments {
    /// The relay's configuration.
    ///
    /// Without it, turn-relay.yaml here, else /etc/nocturne/turn-relay.yaml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Whom it is for, in your own words: the username does not say so, but is the same for all runs with
    /// this name within `credentials.pseudonym_epoch`, so that quotas count them as one user.
    ///
    /// Without it, nobody in particular: another username each time.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let Some(path) = arguments
        .config
        .clone()
        .or_else(|| default_path(environment))
    else {
        return failed(
            "no configuration: name one with --config FILE; there is no turn-relay.yaml or \
             /etc/nocturne/turn-relay.yaml either",
        );
    };
    let clock = Clock::system();
    let Loaded {
        config,
        warnings,
        errors,
        ..
    } = config::load(&path, environment, clock.wall());
    let Some(config) = config.filter(|_| errors.is_empty()) else {
        return refused(&path, &errors, &warnings);
    };
    let settings = Settings::from(&config);
    if settings.uris.is_empty() {
        return failed(&format!(
            "{}: `realm` is no host name, so that clients cannot be told where to connect: set `credentials.uris`",
            path.display()
        ));
    }
    let user = arguments.user.as_deref();
    let credential = credentials::by_hand(&settings, user, &clock, &Random::system());
    say(&mut io::stdout(), &format!("{}\n", credential.to_json()));
    ExitCode::SUCCESS
}
