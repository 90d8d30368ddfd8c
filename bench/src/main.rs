//! How fast the push gateway is, and what it costs beside the floor: the same HTTP stack forwarding
//! without looking.
//!
//! One command starts everything, each in a process of its own: the stand-ins for the providers
//! ([`providers`]), the device under test ([`device`]: the gateway, or the [`floor`]) alone on one
//! core, and here, on the other cores with the stand-ins, the load ([`load`]). Everything is on
//! loopback and ends with this process. What is measured and how: README.md.

mod device;
mod floor;
mod load;
mod measure;
mod notifications;
mod parts;
mod process;
mod providers;
mod report;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use shared::{clock::Clock, environment::Environment};

use measure::Plan;

/// Measure the push gateway against the floor of its own HTTP stack
///
/// Example: cargo run --release -p bench -- --quick --only apns,fcm
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// A few seconds per row, for a first look.
    #[arg(long)]
    quick: bool,
    /// These providers alone.
    #[arg(long, value_delimiter = ',', value_name = "PROVIDERS")]
    only: Vec<Kind>,
    /// These latencies of the provider alone, in milliseconds.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "MILLISECONDS",
        default_value = "0,50"
    )]
    latency: Vec<u64>,
    /// What sealing's parts cost by themselves, and nothing else.
    #[arg(long)]
    parts: bool,
    /// The `nocturne` to measure, instead of the one that is built here.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
}

/// What a process of the benchmark's own is.
#[derive(Debug, Subcommand)]
enum Role {
    /// The stand-ins; takes orders on standard input.
    #[command(hide = true)]
    Providers(providers::Arguments),
    /// The floor.
    #[command(hide = true)]
    Floor(floor::Arguments),
}

/// A provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Apple
    Apns,
    /// Google
    Fcm,
    /// A browser's push service
    #[value(name = "webpush")]
    WebPush,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Apns, Self::Fcm, Self::WebPush];

    const fn name(self) -> &'static str {
        match self {
            Self::Apns => "APNs",
            Self::Fcm => "FCM",
            Self::WebPush => "Web Push",
        }
    }

    /// How many requests at once the provider lets a connection carry: Apple has been seen to allow
    /// 1000, Google and browsers' push services 100.
    const fn streams(self) -> u32 {
        match self {
            Self::Apns => 1000,
            Self::Fcm | Self::WebPush => 100,
        }
    }

    /// How many connections the gateway opens to the provider, at the most.
    const fn connections(self) -> usize {
        match self {
            Self::Apns => 10,
            Self::Fcm | Self::WebPush => 20,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = Environment::of_process();
    let done = match arguments.role {
        Some(Role::Providers(providers)) => providers::serve(&providers),
        Some(Role::Floor(floor)) => floor::serve(&floor, &environment),
        None => benchmark(&arguments, &environment),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn benchmark(arguments: &Arguments, environment: &Environment) -> Result<()> {
    if cfg!(debug_assertions) {
        say("built without --release: the figures say nothing about the real thing");
    }
    if arguments.parts {
        writeln!(io::stdout().lock(), "{}", parts::table()?)?;
        return Ok(());
    }
    let gateway = match &arguments.gateway {
        Some(gateway) => gateway.clone(),
        None => built_gateway(environment)?,
    };
    let kinds = if arguments.only.is_empty() {
        Kind::ALL.to_vec()
    } else {
        arguments.only.clone()
    };
    let latencies = arguments.latency.iter().copied();
    let seconds = Duration::from_secs;
    let plan = Plan {
        gateway,
        kinds,
        latencies: latencies.map(Duration::from_millis).collect(),
        warm_up: seconds(if arguments.quick { 1 } else { 2 }),
        closed: seconds(if arguments.quick { 2 } else { 5 }),
        open: seconds(if arguments.quick { 2 } else { 5 }),
        clock: Clock::system(),
    };
    let rows = measure::run(&plan)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", report::table(&rows))?;
    Ok(())
}

/// The `nocturne` beside this executable. Started by cargo, it is brought up to date first.
fn built_gateway(environment: &Environment) -> Result<PathBuf> {
    let how = if cfg!(debug_assertions) {
        "cargo build"
    } else {
        "cargo build --release"
    };
    if let Some(cargo) = environment.get("CARGO") {
        let mut build = Command::new(cargo);
        build
            .args(how.split(' ').skip(1))
            .args(["--quiet", "--bin=nocturne"]);
        build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        let status = build.status().with_context(|| format!("start `{how}`"))?;
        if !status.success() {
            bail!("the gateway could not be built: see above, and try `{how}`");
        }
    }
    let own = std::env::current_exe().context("find this executable")?;
    let gateway = own.with_file_name(format!("nocturne{}", std::env::consts::EXE_SUFFIX));
    if !gateway.exists() {
        bail!(
            "{} is not there: build it with `{how}`, or name another with --gateway FILE",
            gateway.display()
        );
    }
    Ok(gateway)
}

/// Tells the person at the terminal how far it is. Nobody to read it is not an error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
