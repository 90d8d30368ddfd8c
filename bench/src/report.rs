//! The figures as a table in Markdown, and whether they reach the aims.

use std::fmt::Write as _;

use crate::{
    Kind,
    device::What,
    measure::{DISTURBED, Row},
};

/// Busier than this, the device's own core is what limits it.
const SATURATED: f64 = 0.9;
/// Notifications a second and core, for APNs and FCM.
const AIM_RATE: f64 = 20_000.0;
/// Times the floor's CPU.
const AIM_RATIO: f64 = 2.0;
/// Seconds added at the 99th percentile at half load.
const AIM_ADDED: f64 = 0.005;
/// Seconds of CPU that sealing adds to a push.
const AIM_SEALING: f64 = 150e-6;
/// MiB.
const AIM_MEMORY: f64 = 40.0;

/// All rows, remarks on them, and the aims.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| provider | takes | device | connections | notifications/s | core busy | others busy | CPU each | × floor | per \
         core and second | half load | p50 | p99 | p99 added | peak memory |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let floor = floor(rows, row);
        let _ = writeln!(
            text,
            "| {} | {} ms | {} | {} | {:.0}{} | {:.0} % | {:.0} % | {:.1} µs | {} | {:.0}{} | {:.0}/s | {:.2} ms | {:.2} ms{} | \
             {} | {:.1} MiB |",
            row.kind.name(),
            row.latency.as_millis(),
            row.what.name(),
            row.connections,
            row.rate,
            mark(row.foreign),
            row.busy * 100.0,
            row.others_busy * 100.0,
            row.cpu.as_secs_f64() * 1e6,
            floor.map_or_else(String::new, |floor| format!("{:.2}", ratio(row, floor))),
            capacity(row),
            if row.busy < SATURATED {
                " (computed)"
            } else {
                ""
            },
            row.half_rate,
            row.p50.as_secs_f64() * 1e3,
            row.p99.as_secs_f64() * 1e3,
            mark(row.foreign_at_half),
            floor.map_or_else(String::new, |floor| format!(
                "{:+.2} ms",
                added(row, floor) * 1e3
            )),
            mebibytes(row),
        );
    }
    if rows.iter().any(|row| row.busy < SATURATED) {
        text.push_str(
            "\n(computed): the device's core was not fully used, because load and stand-ins were the limit; the figure is \
             one second divided by the CPU time of one notification.\n",
        );
    }
    if rows
        .iter()
        .any(|row| row.foreign > DISTURBED || row.foreign_at_half > DISTURBED)
    {
        let _ = writeln!(
            text,
            "\n\\*: disturbed: more than {DISTURBED} cores were used by processes that have nothing to do with the \
             measurement. Most rates and all latencies would be better on a machine at rest; CPU times grow a little.",
        );
    }
    text.push('\n');
    for row in rows.iter().filter(|row| row.what == What::Opaque) {
        text.push_str(&aims(row, floor(rows, row)));
        let sealed = rows.iter().find(|other| {
            other.what == What::Sealed && other.kind == row.kind && other.latency == row.latency
        });
        if let Some(sealed) = sealed {
            text.push_str(&aims_of_sealing(row, sealed));
        }
    }
    text
}

/// What marks a figure of a disturbed measurement.
fn mark(foreign: f64) -> &'static str {
    if foreign > DISTURBED { " \\*" } else { "" }
}

/// The floor for the same provider and latency, unless `row` is it.
fn floor<'a>(rows: &'a [Row], row: &Row) -> Option<&'a Row> {
    rows.iter()
        .find(|other| {
            other.what == What::Floor && other.kind == row.kind && other.latency == row.latency
        })
        .filter(|_| row.what != What::Floor)
}

fn aims(row: &Row, floor: Option<&Row>) -> String {
    let verdict = |met: bool| if met { "met" } else { "missed" };
    let mut text = format!("- {}, {} ms:", row.kind.name(), row.latency.as_millis());
    if row.kind != Kind::WebPush {
        let _ = write!(
            text,
            " at least {AIM_RATE:.0} a second and core: {} ({:.0});",
            verdict(capacity(row) >= AIM_RATE),
            capacity(row)
        );
    }
    if let Some(floor) = floor {
        let disturbed = [row, floor]
            .map(|row| row.foreign_at_half)
            .into_iter()
            .any(|foreign| foreign > DISTURBED);
        let _ = write!(
            text,
            " at most {AIM_RATIO:.0} times the floor's CPU: {} ({:.2}); p99 less than {:.0} ms longer at half load: {} ({:+.2} ms);",
            verdict(ratio(row, floor) <= AIM_RATIO),
            ratio(row, floor),
            AIM_ADDED * 1e3,
            if disturbed {
                "disturbed"
            } else {
                verdict(added(row, floor) < AIM_ADDED)
            },
            added(row, floor) * 1e3
        );
    }
    let _ = writeln!(
        text,
        " under {AIM_MEMORY:.0} MiB: {} ({:.1})",
        verdict(mebibytes(row) < AIM_MEMORY),
        mebibytes(row)
    );
    text
}

/// What sealing costs beside the same without.
fn aims_of_sealing(row: &Row, sealed: &Row) -> String {
    let verdict = |met: bool| if met { "met" } else { "missed" };
    let added = sealed.cpu.as_secs_f64() - row.cpu.as_secs_f64();
    let rate = capacity(sealed);
    format!(
        "- {}, {} ms, sealed: less than {:.0} µs of CPU more than without: {} ({:.1}); at least half of {AIM_RATE:.0} a \
         second and core: {} ({rate:.0}, {:.2} of the rate without)\n",
        row.kind.name(),
        row.latency.as_millis(),
        AIM_SEALING * 1e6,
        verdict(added < AIM_SEALING),
        added * 1e6,
        verdict(rate >= AIM_RATE / 2.0),
        rate / capacity(row),
    )
}

/// Notifications a second with one core: measured where the core was the limit, else computed.
fn capacity(row: &Row) -> f64 {
    if row.busy < SATURATED {
        1.0 / row.cpu.as_secs_f64()
    } else {
        row.rate
    }
}

fn ratio(row: &Row, floor: &Row) -> f64 {
    row.cpu.as_secs_f64() / floor.cpu.as_secs_f64()
}

fn added(row: &Row, floor: &Row) -> f64 {
    row.p99.as_secs_f64() - floor.p99.as_secs_f64()
}

fn mebibytes(row: &Row) -> f64 {
    let kibibytes = u32::try_from(row.peak_memory / 1024).unwrap_or(u32::MAX);
    f64::from(kibibytes) / 1024.0
}
