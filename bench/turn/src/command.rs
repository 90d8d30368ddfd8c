//! The command line: what is to be measured, with which binaries, on which cores.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use shared::{clock::Clock, environment::Environment, open_files};

use crate::{
    floor,
    measure::{Bench, Measurement, Plan},
    process::{Cores, LEASHED, become_leashed},
    relay::{Relays, Threads, Tls, What, is_there},
    report, say, soak,
};

/// Allocations live so long, unless the soak says otherwise.
const LIFETIME: Duration = Duration::from_hours(1);

/// Measure the TURN relay beside coturn
///
/// Example: cargo run --release -p bench-turn -- --quick --only cpu,memory
#[derive(Debug, Parser)]
#[command(name = "bench-turn")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Short samples and few rounds, for a first look.
    #[arg(long)]
    quick: bool,
    /// These measurements alone.
    #[arg(long, value_delimiter = ',', value_name = "MEASUREMENTS")]
    only: Vec<Measurement>,
    /// Packets a second where CPU time is measured.
    #[arg(long, value_name = "PACKETS", default_value_t = 50_000)]
    rate: u32,
    /// coturn alone, and the bare loop.
    #[arg(long)]
    without_nocturne: bool,
    #[command(flatten)]
    setting: Setting,
}

/// Which relays, and where.
#[derive(Debug, clap::Args)]
struct Setting {
    /// The `nocturne` to measure, instead of the one that is built here.
    #[arg(long, value_name = "FILE", global = true)]
    relay: Option<PathBuf>,
    /// coturn's server.
    #[arg(long, value_name = "FILE", default_value = "turnserver", global = true)]
    coturn: PathBuf,
    /// coturn's relay threads (`-m`), instead of the better of 1 and its default.
    #[arg(long, value_name = "NUMBER", global = true)]
    coturn_threads: Option<u32>,
    /// The relays' cores, instead of the first; the load has the others.
    #[arg(long, value_delimiter = ',', value_name = "CORES", global = true)]
    cores: Vec<usize>,
}

/// What else this program does.
#[derive(Debug, Subcommand)]
enum Role {
    /// Let allocations come and go for 20 minutes, under floods, and say whether all is well
    ///
    /// Example: cargo run --release -p bench-turn -- soak --minutes 20
    Soak(soak::Arguments),
    /// The bare loop.
    #[command(hide = true)]
    Floor(floor::Arguments),
    /// Another program, which ends with the process that started this one.
    #[command(hide = true, name = LEASHED)]
    Leashed {
        program: OsString,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.role {
        Some(Role::Floor(floor)) => floor::serve(floor),
        Some(Role::Leashed { program, arguments }) => {
            let error = become_leashed(program, arguments);
            Err(error).with_context(|| format!("start {}", program.display()))
        }
        Some(Role::Soak(soak)) => soak_relay(soak, &arguments.setting),
        None => benchmark(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench-turn: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn benchmark(arguments: &Arguments) -> Result<()> {
    let mut wanted = What::RELAYS.to_vec();
    wanted.retain(|what| *what == What::Coturn || !arguments.without_nocturne);
    let relays = relays(&arguments.setting, &wanted, LIFETIME)?;
    let milliseconds =
        |quick, thorough| Duration::from_millis(if arguments.quick { quick } else { thorough });
    let plan = Plan {
        rounds: if arguments.quick { 2 } else { 5 },
        window: milliseconds(400, 1500),
        rate: arguments.rate.into(),
        allocations: if arguments.quick { 1_000 } else { 5_000 },
    };
    let mut out = io::stdout();
    let mut bench = Bench { relays, plan };
    if arguments.setting.coturn_threads.is_none() {
        writeln!(out, "{}\n", bench.calibrate()?)?;
    }
    writeln!(out, "{}", bench.describe()?)?;
    let wanted = if arguments.only.is_empty() {
        Measurement::ALL.to_vec()
    } else {
        arguments.only.clone()
    };
    let mut sections = Vec::new();
    for measurement in wanted {
        let section = measurement.run(&bench)?;
        writeln!(out, "{}", report::section(&section))?;
        sections.push(section);
    }
    writeln!(out, "{}\n{}", report::legend(), report::verdict(&sections))?;
    Ok(())
}

fn soak_relay(arguments: &soak::Arguments, setting: &Setting) -> Result<()> {
    let relays = relays(setting, &[arguments.what()], soak::LIFETIME)?;
    let (report, well) = soak::run(&relays, arguments)?;
    writeln!(io::stdout(), "{report}")?;
    ensure!(well, "not all is well: see above");
    Ok(())
}

fn relays(setting: &Setting, wanted: &[What], lifetime: Duration) -> Result<Relays> {
    if cfg!(debug_assertions) {
        say("built without --release: the figures say nothing about the real thing");
    }
    let _ = open_files::raise();
    if wanted.contains(&What::Coturn) && !is_there(&setting.coturn) {
        bail!(
            "{} does not start: install the Debian package coturn, or name its server with --coturn FILE",
            setting.coturn.display()
        );
    }
    let nocturne = match &setting.relay {
        _ if !wanted.contains(&What::Nocturne) => None,
        Some(relay) => Some(relay.clone()),
        None => Some(built_relay(&Environment::of_process())?),
    };
    let cores = Cores::divide(&setting.cores);
    say(&cores.describe());
    Ok(Relays {
        coturn: setting.coturn.clone(),
        threads: setting
            .coturn_threads
            .map_or(Threads::Default, Threads::Some),
        nocturne,
        cores,
        clock: Clock::system(),
        tls: Tls::new()?,
        lifetime,
    })
}

/// The `nocturne` beside this executable. Started by cargo, it is brought up to date first.
fn built_relay(environment: &Environment) -> Result<PathBuf> {
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
        build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        let status = build.status().with_context(|| format!("start `{how}`"))?;
        if !status.success() {
            bail!("nocturne could not be built: see above, and try `{how}`");
        }
    }
    let own = std::env::current_exe().context("find this executable")?;
    let relay = own.with_file_name("nocturne");
    if !relay.exists() {
        bail!(
            "{} is not there: build it with `{how}`, or name another with --relay FILE",
            relay.display()
        );
    }
    Ok(relay)
}
