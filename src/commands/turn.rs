//! `nocturne turn`: the TURN relay alone.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use shared::{clock::Clock, environment::Environment, lifecycle, random::Random, telemetry};
use tracing::{error, info, warn};
use turn_relay::{
    config::{self, Loaded},
    relay::World,
};

use super::{
    answer_to_supervisor, block_on_one_thread, failed, name_process, refused,
    sandboxed::{self, Needs, Privileges},
};

/// Where the configuration is looked for, in this order.
const USUAL: [&str; 2] = ["turn-relay.yaml", "/etc/nocturne/turn-relay.yaml"];

/// Run the TURN relay
///
/// On SIGTERM it makes no allocations any more and stops when the last one is gone (`drain_timeout`); a
/// second SIGTERM stops it at once. On SIGHUP it reads its configuration, secrets and certificate again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nocturne turn --config turn-relay.yaml")]
pub(crate) struct Arguments {
    /// The configuration.
    ///
    /// Without it, turn-relay.yaml here, else /etc/nocturne/turn-relay.yaml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    privileges: Privileges,
    /// Standard input is the line to `nocturne run`.
    #[arg(long, hide = true)]
    supervised: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    if arguments.supervised {
        name_process(c"nocturne-turn");
    }
    let Some(path) = arguments
        .config
        .clone()
        .or_else(|| default_path(environment))
    else {
        return failed(&format!(
            "no configuration: name one with --config FILE; there is no {} either (config/turn-relay.yaml is a \
             commented example)",
            USUAL.join(" or ")
        ));
    };
    let clock = Clock::system();
    let Loaded {
        config,
        mut warnings,
        failing,
        errors,
        from_environment,
    } = config::load(&path, environment, clock.wall());
    // A certificate that ran out stops TLS; the relay is there for the others.
    warnings.splice(..0, failing);
    let Some(config) = config.filter(|_| errors.is_empty()) else {
        return refused(&path, &errors, &warnings);
    };
    if let Err(problem) = telemetry::start(&config.log.level, config.log.format, environment) {
        return failed(&problem);
    }
    let listen = &config.listen;
    let needs = Needs {
        service: "turn",
        configuration: &path,
        environment,
        // A reload may allow TCP allocations.
        tcp_ports: [&config.http_listen, &listen.tcp, &listen.tls]
            .into_iter()
            .flatten()
            .map(SocketAddr::port)
            .chain(config.relay.ports.clone())
            .collect(),
        udp_ports: listen
            .udp
            .iter()
            .chain(&listen.dtls)
            .map(SocketAddr::port)
            .collect(),
    };
    let closing = match sandboxed::enter(&arguments.privileges, &needs) {
        Ok(closing) => closing,
        Err(problem) => return failed(&problem),
    };
    if let Err(problem) = answer_to_supervisor(arguments.supervised) {
        return failed(&problem);
    }
    for warning in &warnings {
        warn!("{warning}");
    }
    if let Some(note) = from_environment {
        info!("{note}");
    }
    for line in config::report::summary(&config) {
        info!("{line}");
    }
    // Everything but relaying, which has threads of its own.
    block_on_one_thread(async {
        let (trigger, shutdown) = lifecycle::shutdown();
        let world = World {
            clock,
            random: Random::system(),
            environment: environment.clone(),
        };
        let bound = match turn_relay::bind(config, world).await {
            Ok(bound) => bound,
            Err(problem) => {
                error!("{problem}");
                return ExitCode::FAILURE;
            }
        };
        if let Err(problem) = closing.close() {
            error!("{problem}");
            return ExitCode::FAILURE;
        }
        match turn_relay::run(bound, trigger, shutdown).await {
            Ok(()) => {
                info!("stopped");
                ExitCode::SUCCESS
            }
            Err(problem) => {
                error!(%problem, "signals cannot be handled");
                ExitCode::FAILURE
            }
        }
    })
}

/// Where the configuration is, when the command line does not say.
pub(crate) fn default_path(environment: &Environment) -> Option<PathBuf> {
    let found = USUAL.iter().find(|path| Path::new(path).exists());
    // Where everything may be in the environment, the file need not be there.
    let of_environment = USUAL
        .last()
        .filter(|_| config::VARIABLES.are_set(environment));
    found.or(of_environment).map(PathBuf::from)
}
