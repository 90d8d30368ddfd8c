//! What every Prometheus client tells of its process, under the names that all of them use.

use std::{fs, time::UNIX_EPOCH};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::clock::Clock;

/// `process_*`: read from `/proc` at each scrape, where there is one; elsewhere the start alone.
#[derive(Debug)]
pub struct ProcessMetrics {
    started: f64,
}

impl ProcessMetrics {
    /// For a process that starts now.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let started = clock.wall().duration_since(UNIX_EPOCH);
        Self {
            started: started.map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| match value {
            Some(value) => {
                let gauge = ConstGauge::new(value);
                let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
                gauge.encode(metric)
            }
            None => Ok(()),
        };
        gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
            Some(self.started),
        )?;
        gauge(
            "process_resident_memory_bytes",
            "Memory in use",
            status_kib("VmRSS:").map(|kib| kib * 1024.0),
        )?;
        gauge("process_open_fds", "Open files", open_files())?;
        gauge(
            "process_max_fds",
            "Open files at the most",
            limit_of_open_files(),
        )?;
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let metric = encoder.encode_descriptor(
                "process_cpu_seconds",
                "CPU time used",
                None,
                counter.metric_type(),
            )?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

fn status_kib(name: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}

fn limit_of_open_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `proc_pid_stat(5)`: user and system time are the 14th and 15th field; the second, the name, may have
/// spaces and ends with the last parenthesis.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    let ticks = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some((user + system) / f64::from(ticks))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    #[test]
    fn all_of_it_is_there_on_linux() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::new(&Clock::system())));
        let mut output = String::new();
        text::encode(&mut output, &registry).expect("a string takes it");
        for name in [
            "process_start_time_seconds ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_max_fds ",
            "process_cpu_seconds_total ",
        ] {
            let line = output.lines().find_map(|line| line.strip_prefix(name));
            let value: f64 = line.expect(name).parse().expect("a number");
            assert!(value >= 0.0);
        }
    }
}
