//! Processes: on which cores they run, what they use, how they end.

use std::{
    io,
    process::{Child, Command},
    time::Duration,
};

/// Which cores are whose.
#[derive(Clone, Debug)]
pub(crate) struct Cores {
    /// The device under test's; none: nothing is pinned.
    device: Option<usize>,
    /// The stand-ins' and the load's.
    others: Vec<usize>,
}

/// A process of ours, ended when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

/// What a process has used up to now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time of all threads.
    pub(crate) cpu: Duration,
    /// The most memory it ever had resident; where the system does not keep that, what it has now.
    pub(crate) peak_memory: u64,
}

impl Cores {
    /// Gives the first core that this process may use to the device under test, keeps the others, and
    /// moves this thread and all that it will start to them.
    pub(crate) fn divide() -> Self {
        let mut allowed = platform::allowed_cores().into_iter();
        let first = allowed.next();
        let others: Vec<_> = allowed.collect();
        let cores = Self {
            device: first.filter(|_| !others.is_empty()),
            others,
        };
        if cores.device.is_some() {
            platform::move_to(&cores.others);
        }
        cores
    }

    /// What a reader has to know about them.
    pub(crate) fn describe(&self) -> String {
        match self.device {
            Some(_) => format!(
                "the device under test has one core to itself, load and stand-ins share {}",
                self.others.len()
            ),
            None => "nothing is pinned to a core: this system does not allow it or has one core only, and the \
                     figures per core are CPU time alone"
                .to_owned(),
        }
    }

    /// How many cores load and stand-ins have.
    pub(crate) fn others(&self) -> usize {
        self.others.len().max(1)
    }

    /// Starts the device under test on its core.
    pub(crate) fn start_device(&self, command: &mut Command) -> io::Result<Process> {
        let Some(core) = self.device else {
            return command.spawn().map(Process);
        };
        // A child begins on its parent's cores.
        platform::move_to(&[core]);
        let started = command.spawn();
        platform::move_to(&self.others);
        started.map(Process)
    }
}

impl Process {
    /// Starts a process on the cores of this one.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// What it has used up to now.
    pub(crate) fn usage(&self) -> Usage {
        usage(self.0.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What this process has used up to now.
pub(crate) fn own_usage() -> Usage {
    usage(std::process::id())
}

fn usage(process: u32) -> Usage {
    platform::usage(process).unwrap_or_default()
}

/// Lets this process and those it starts have as many files open as the system lets them.
pub(crate) fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit
            .maximum
            .map_or(Some(65_536), |most| Some(most.min(65_536)));
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// CPU time that all processes together have used since the system started, where it says so.
pub(crate) fn machine_cpu() -> Option<Duration> {
    platform::machine_cpu()
}

#[cfg(target_os = "linux")]
mod platform {
    use std::{fs, time::Duration};

    use rustix::{
        param::clock_ticks_per_second,
        thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    };

    use super::Usage;

    pub(super) fn allowed_cores() -> Vec<usize> {
        let Ok(set) = sched_getaffinity(None) else {
            return Vec::new();
        };
        (0..CpuSet::MAX_CPU)
            .filter(|core| set.is_set(*core))
            .collect()
    }

    pub(super) fn move_to(cores: &[usize]) {
        let mut set = CpuSet::new();
        for core in cores {
            set.set(*core);
        }
        let _ = sched_setaffinity(None, &set);
    }

    pub(super) fn usage(process: u32) -> Option<Usage> {
        // proc_pid_stat(5): after the name in parentheses, utime and stime are fields 14 and 15 of all.
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let ticks: u64 = fields
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: u64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Usage {
            cpu: of_ticks(ticks),
            peak_memory: kibibytes * 1024,
        })
    }

    pub(super) fn machine_cpu() -> Option<Duration> {
        // proc_stat(5): user nice system idle iowait irq softirq steal …
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let fields = stat.lines().next()?.split_ascii_whitespace().skip(1);
        let busy = fields
            .take(7)
            .enumerate()
            .filter(|(place, _)| !matches!(place, 3 | 4));
        Some(of_ticks(
            busy.filter_map(|(_, field)| field.parse::<u64>().ok())
                .sum(),
        ))
    }

    fn of_ticks(ticks: u64) -> Duration {
        Duration::from_millis(ticks * 1000 / clock_ticks_per_second().max(1))
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use std::{process::Command, time::Duration};

    use super::Usage;

    pub(super) fn allowed_cores() -> Vec<usize> {
        Vec::new()
    }

    pub(super) fn move_to(_cores: &[usize]) {}

    /// As `ps` tells it: `[[hours:]minutes:]seconds` and KiB.
    pub(super) fn usage(process: u32) -> Option<Usage> {
        let id = process.to_string();
        let output = Command::new("ps")
            .args(["-o", "time=,rss=", "-p", &id])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let time = fields.next()?.split(':');
        let seconds = time
            .filter_map(|part| part.parse::<f64>().ok())
            .fold(0.0, |sum, part| sum * 60.0 + part);
        let kibibytes: u64 = fields.next()?.parse().ok()?;
        Some(Usage {
            cpu: Duration::try_from_secs_f64(seconds).ok()?,
            peak_memory: kibibytes * 1024,
        })
    }

    pub(super) fn machine_cpu() -> Option<Duration> {
        None
    }
}
