//! How many credentials `nocturne turn` hands out, and how much longer a Matrix client waits for them than its
//! homeserver takes to answer.
//!
//! One command starts everything, each in a process of its own: the device under test ([`device`]) alone on one
//! core; and on the others a homeserver that knows one answer ([`homeserver`]) and, here, the load ([`load`]).
//! Everything is on loopback and ends with this process. What is measured and how: README.md.

mod device;
mod homeserver;
mod load;
#[expect(dead_code, reason = "the benchmark of the push gateway uses all of it")]
#[path = "../../src/process.rs"]
mod process;

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use shared::{clock::Clock, environment::Environment};

use device::Device;
use homeserver::Homeserver;
use load::{Load, Served};
use process::Cores;

/// Connections at full load.
const CONNECTIONS: usize = 64;
/// Connections where it is the time of one request that counts.
const FEW: usize = 8;
/// How long a homeserver takes that is neither idle nor busy.
const USUAL: Duration = Duration::from_millis(5);
/// More of a core than this used by processes that have nothing to do with it disturbs a measurement.
const DISTURBED: f64 = 0.1;
/// How often a disturbed measurement is made.
const ATTEMPTS: usize = 3;

/// Measure the credential service
///
/// Example: cargo run --release -p bench-credentials -- --quick
#[derive(Debug, Parser)]
#[command(name = "bench-credentials")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// A second for each row, for a first look.
    #[arg(long)]
    quick: bool,
    /// The `nocturne` to measure, instead of the one that is built here.
    #[arg(long, value_name = "FILE")]
    nocturne: Option<PathBuf>,
}

/// What a process of the benchmark's own is.
#[derive(Debug, Subcommand)]
enum Role {
    /// The homeserver.
    #[command(hide = true)]
    Homeserver(homeserver::Arguments),
}

/// One measurement, and what it cost the device.
struct Row {
    what: String,
    served: Served,
    cpu_each: Duration,
    /// How much of its core the device used; 1 is all of it.
    busy: f64,
    disturbed: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = Environment::of_process();
    let done = match &arguments.role {
        Some(Role::Homeserver(homeserver)) => homeserver::serve(homeserver),
        None => benchmark(&arguments, &environment),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench-credentials: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn benchmark(arguments: &Arguments, environment: &Environment) -> Result<()> {
    if cfg!(debug_assertions) {
        say("built without --release: the figures say nothing about the real thing");
    }
    let nocturne = match &arguments.nocturne {
        Some(nocturne) => nocturne.clone(),
        None => device::built(environment)?,
    };
    process::raise_file_limit();
    let cores = Cores::divide();
    say(&cores.describe());
    let clock = Clock::system();
    let duration = Duration::from_secs(if arguments.quick { 1 } else { 5 });
    let at_once = Homeserver::start(Duration::ZERO)?;
    let usual = Homeserver::start(USUAL)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let homeservers = [&at_once, &usual];
    let measure = |device: &Device, what: &str, load: &Load| {
        runtime.block_on(measure(device, &homeservers, what, load, duration, &clock))
    };

    let device = Device::start(&nocturne, &at_once, &cores)?;
    let rest = load::rest(device.address);
    let matrix = load::matrix(device.address);
    let full = [
        measure(&device, "REST route", &rest.on(CONNECTIONS))?,
        measure(
            &device,
            "Matrix route, homeserver answers at once",
            &matrix.on(CONNECTIONS),
        )?,
    ];
    let slow = Device::start(&nocturne, &usual, &cores)?;
    let mut pairs = Vec::new();
    for (homeserver, device, name) in [
        (&at_once, &device, "answers at once"),
        (&usual, &slow, "takes 5 ms"),
    ] {
        for connections in [1, FEW] {
            let direct = load::whoami(homeserver.address).on(connections);
            let through = load::matrix(device.address).on(connections);
            let who = format!("{connections} at a time, homeserver {name}");
            pairs.push((
                measure(device, &who, &direct)?,
                measure(device, &who, &through)?,
            ));
        }
    }
    let memory = device.usage().peak_memory.max(slow.usage().peak_memory);
    let mut out = io::stdout().lock();
    writeln!(out, "{}", full_table(&full))?;
    writeln!(out, "{}", added_table(&pairs))?;
    writeln!(
        out,
        "Peak memory of `nocturne turn` over all of that: {:.1} MiB",
        mebibytes(memory)
    )?;
    Ok(())
}

async fn measure(
    device: &Device,
    homeservers: &[&Homeserver],
    what: &str,
    load: &Load,
    duration: Duration,
    clock: &Clock,
) -> Result<Row> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        load.run(duration / 5, clock)
            .await
            .with_context(|| format!("{what}: the device's log: {}", device.log()))?;
        let (before, own, machine) = usage(device, homeservers);
        let began = clock.now();
        let served = load
            .run(duration, clock)
            .await
            .with_context(|| format!("{what}: the device's log: {}", device.log()))?;
        let took = clock.now().saturating_duration_since(began);
        let (after, own_after, machine_after) = usage(device, homeservers);
        let cpu = after.saturating_sub(before);
        let ours = cpu + own_after.saturating_sub(own);
        let foreign = machine_after.saturating_sub(machine).saturating_sub(ours);
        let disturbed = foreign.as_secs_f64() > DISTURBED * took.as_secs_f64();
        if disturbed && attempt < ATTEMPTS {
            say(&format!("{what}: disturbed by other processes, once more"));
            continue;
        }
        return Ok(Row {
            what: what.to_owned(),
            cpu_each: cpu / u32::try_from(served.count.max(1))?,
            busy: cpu.as_secs_f64() / took.as_secs_f64(),
            served,
            disturbed,
        });
    }
}

/// CPU time of the device, of this process and the homeservers, and of the whole machine.
fn usage(device: &Device, homeservers: &[&Homeserver]) -> (Duration, Duration, Duration) {
    let theirs: Duration = homeservers.iter().map(|homeserver| homeserver.cpu()).sum();
    (
        device.usage().cpu,
        process::own_usage().cpu + theirs,
        process::machine_cpu().unwrap_or_default(),
    )
}

fn full_table(rows: &[Row]) -> String {
    let mut table = "| full load, 64 connections | requests/s | core busy | CPU each | per core and second | p50 | p99 |\n\
                     |---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in rows {
        let rate = row.served.rate();
        // A core that was not full could have done more.
        let per_core = if row.busy >= 0.9 {
            format!("{rate:.0}")
        } else {
            format!("{:.0} (computed)", 1.0 / row.cpu_each.as_secs_f64())
        };
        let _ = writeln!(
            table,
            "| {}{} | {rate:.0} | {:.0} % | {:.1} µs | {per_core} | {} | {} |",
            row.what,
            mark(row),
            100.0 * row.busy,
            1e6 * row.cpu_each.as_secs_f64(),
            row.served.quantile(0.5),
            row.served.quantile(0.99),
        );
    }
    table
}

fn added_table(pairs: &[(Row, Row)]) -> String {
    let mut table = "| latency | homeserver p50 | Matrix route p50 | added | homeserver p99 | Matrix route p99 | added |\n\
                     |---|---|---|---|---|---|---|\n"
        .to_owned();
    for (direct, through) in pairs {
        let added = |quantile| {
            let (with, without) = (
                through.served.micros(quantile),
                direct.served.micros(quantile),
            );
            format!("{:+.2} ms", (with - without) / 1000.0)
        };
        let _ = writeln!(
            table,
            "| {}{} | {} | {} | {} | {} | {} | {} |",
            through.what,
            if direct.disturbed {
                mark(direct)
            } else {
                mark(through)
            },
            direct.served.quantile(0.5),
            through.served.quantile(0.5),
            added(0.5),
            direct.served.quantile(0.99),
            through.served.quantile(0.99),
            added(0.99),
        );
    }
    table
}

fn mark(row: &Row) -> &'static str {
    if row.disturbed { " \\*" } else { "" }
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}

/// Tells the person at the terminal how far it is. Nobody to read it is not an error.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
