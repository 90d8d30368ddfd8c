//! `nocturne push`: the push gateway alone.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use push_gateway::{
    config::{self, Loaded},
    gateway::World,
};
use shared::{clock::Clock, environment::Environment, lifecycle, random::Random, telemetry};
use tracing::{error, info, warn};

use super::{
    PUSH_FILE, USUAL_FOLDERS, answer_to_supervisor, block_on, failed, name_process, refused,
    sandboxed::{self, Needs, Privileges},
};

/// Run the push gateway
///
/// Stops on SIGTERM after what is under way is finished; reads its configuration, keys and
/// certificates again on SIGHUP.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nocturne push --config sygnal.yaml")]
pub(crate) struct Arguments {
    /// The configuration: a sygnal.yaml, or push-gateway.yaml.
    ///
    /// Without it, the first of these that is there: the file that `$NOCTURNE_PUSH_CONFIG` or
    /// `$SYGNAL_CONF` names, push-gateway.yaml, sygnal.yaml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take over from a gateway that this user runs on the same ports: new connections come to this one, the
    /// other finishes what it has. It has to be stopped then.
    #[arg(long)]
    beside: bool,
    #[command(flatten)]
    privileges: Privileges,
    /// Standard input is the line to `nocturne run`.
    #[arg(long, hide = true)]
    supervised: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    if arguments.supervised {
        name_process(c"nocturne-push");
    }
    let Some(path) = arguments
        .config
        .clone()
        .or_else(|| default_path(environment))
    else {
        return failed(
            "no configuration: name one with --config FILE, or in NOCTURNE_PUSH_CONFIG or SYGNAL_CONF; there is \
             no push-gateway.yaml or sygnal.yaml here either (config/push-gateway.yaml is a commented example)",
        );
    };
    let clock = Clock::system();
    let Loaded {
        config,
        mut warnings,
        failing,
        errors,
        from_environment,
    } = config::load(&path, environment, clock.wall());
    // A certificate that ran out stops its app; the gateway is there for the others.
    warnings.splice(..0, failing);
    let Some(config) = config.filter(|_| errors.is_empty()) else {
        return refused(&path, &errors, &warnings);
    };
    if let Err(problem) = telemetry::start(&config.log.level, config.log.format, environment) {
        return failed(&problem);
    }
    let needs = Needs {
        service: "push",
        configuration: &path,
        environment,
        tcp_ports: config
            .listen
            .iter()
            .chain(&config.metrics_listen)
            .map(SocketAddr::port)
            .collect(),
        udp_ports: Vec::new(),
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
    for app in &config.apps {
        info!("{}", config::report::app_line(app));
    }
    block_on(async {
        let (trigger, shutdown) = lifecycle::shutdown();
        let world = World {
            environment: environment.clone(),
            clock,
            random: Random::system(),
            shutdown,
        };
        let bound = if arguments.beside {
            push_gateway::bind_beside(config, world).await
        } else {
            push_gateway::bind(config, world).await
        };
        let bound = match bound {
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
        match push_gateway::run(bound, trigger).await {
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
    let named = ["NOCTURNE_PUSH_CONFIG", "SYGNAL_CONF"]
        .iter()
        .find_map(|name| environment.get(name));
    let found = || {
        ["push-gateway.yaml", "sygnal.yaml"]
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
            .map(Path::to_path_buf)
    };
    // Where everything may be in the environment, the file need not be there.
    let of_environment = || {
        let path = || Path::new(USUAL_FOLDERS[0]).join(PUSH_FILE);
        config::VARIABLES.are_set(environment).then(path)
    };
    named
        .map(PathBuf::from)
        .or_else(found)
        .or_else(of_environment)
}
