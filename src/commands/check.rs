//! `nocturne check`: everything that is wrong with a configuration, at once.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use push_gateway::config;
use shared::{clock::Clock, environment::Environment, tls};

use super::{failed, push, say};

/// Check configurations, keys and certificates without starting anything
///
/// Reports every problem with its file and line. Exit code 1 if there is any; warnings alone are none.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nocturne check sygnal.yaml")]
pub(crate) struct Arguments {
    /// A folder with push-gateway.yaml in it. Without it and without files: /etc/nocturne, else ./config,
    /// else the file that `nocturne push` would take.
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    config_dir: Option<PathBuf>,
    /// Configurations to check.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let files = match files(arguments, environment) {
        Ok(files) => files,
        Err(problem) => return failed(&problem),
    };
    let clock = Clock::system();
    let mut sound = true;
    for path in files {
        let loaded = config::load(&path, environment, clock.wall());
        sound &= loaded.errors.is_empty() && loaded.failing.is_empty();
        say(&mut io::stdout(), &config::report::text(&path, &loaded));
    }
    if let Err(problem) = tls::roots(environment) {
        sound = false;
        say(&mut io::stdout(), &format!("error: {problem}\n"));
    }
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn files(arguments: &Arguments, environment: &Environment) -> Result<Vec<PathBuf>, String> {
    if !arguments.files.is_empty() {
        return Ok(arguments.files.clone());
    }
    if let Some(directory) = &arguments.config_dir {
        return Ok(vec![directory.join("push-gateway.yaml")]);
    }
    let usual = ["/etc/nocturne", "config"]
        .iter()
        .map(|directory| Path::new(directory).join("push-gateway.yaml"));
    usual
        .into_iter()
        .find(|path| path.exists())
        .or_else(|| push::default_path(environment))
        .map(|path| vec![path])
        .ok_or_else(|| {
            "nothing to check: name a file, or a folder with --config-dir; there is no push-gateway.yaml in \
             /etc/nocturne or ./config"
                .to_owned()
        })
}
