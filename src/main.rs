//! The command `nocturne`: push gateway and TURN relay that know as little as possible about who
//! talks to whom.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::environment::Environment;

mod commands;

/// A self-hosted push gateway and TURN relay that know as little as possible about who talks to whom.
#[derive(Debug, Parser)]
#[command(
    name = "nocturne",
    version,
    about = "A self-hosted push gateway and TURN relay for Matrix that know as little as possible about who talks to whom",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::Arguments),
    Push(commands::push::Arguments),
    Turn(commands::turn::Arguments),
    Check(commands::check::Arguments),
    Doctor(commands::doctor::Arguments),
    Health(commands::health::Arguments),
    Init(commands::init::Arguments),
    Notify(commands::notify::Arguments),
    Credentials(commands::credentials::Arguments),
    Keygen(commands::keygen::Arguments),
    Demo(commands::demo::Arguments),
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Reader(commands::reader::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::of_process();
    match cli.command {
        Command::Run(arguments) => commands::run::run(&arguments, &environment),
        Command::Push(arguments) => commands::push::run(&arguments, &environment),
        Command::Turn(arguments) => commands::turn::run(&arguments, &environment),
        Command::Check(arguments) => commands::check::run(&arguments, &environment),
        Command::Doctor(arguments) => commands::doctor::run(&arguments, &environment),
        Command::Health(arguments) => commands::health::run(&arguments, &environment),
        Command::Init(arguments) => commands::init::run(&arguments, &environment),
        Command::Credentials(arguments) => commands::credentials::run(&arguments, &environment),
        Command::Keygen(arguments) => commands::keygen::run(&arguments),
        Command::Notify(arguments) => commands::notify::run(&arguments, &environment),
        Command::Demo(arguments) => commands::demo::run(&arguments, &environment),
        #[cfg(target_os = "linux")]
        Command::Reader(arguments) => commands::reader::run(&arguments, &environment),
    }
}
