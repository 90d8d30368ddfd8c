//! Processes: on which cores they run, what they use, how they end.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    time::Duration,
};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Signal, set_parent_process_death_signal},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Which cores are whose.
#[derive(Clone, Debug)]
pub(crate) struct Cores {
    /// The relays'; empty: nothing is pinned.
    relay: Vec<usize>,
    /// The load generator's.
    load: Vec<usize>,
}

/// A process of ours, ended when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

/// Memory of a process, in bytes. What the kernel keeps for its sockets is in neither.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident pages.
    pub(crate) resident: u64,
    /// Resident pages, those shared with other processes divided by how many share them.
    pub(crate) proportional: u64,
}

impl Cores {
    /// Gives `wanted` to the relays, or else the first core that this process may use, and the others
    /// to the load; moves this thread and all that it will start to those.
    pub(crate) fn divide(wanted: &[usize]) -> Self {
        let allowed = allowed_cores();
        let relay: Vec<_> = if wanted.is_empty() {
            allowed.iter().copied().take(1).collect()
        } else {
            wanted.to_vec()
        };
        let load: Vec<_> = allowed
            .into_iter()
            .filter(|core| !relay.contains(core))
            .collect();
        if load.is_empty() {
            return Self {
                relay: Vec::new(),
                load,
            };
        }
        move_to(&load);
        Self { relay, load }
    }

    /// What a reader has to know about them.
    pub(crate) fn describe(&self) -> String {
        if self.relay.is_empty() {
            return "nothing is pinned to a core: no core would be left for the load; rates and latencies say little"
                .to_owned();
        }
        format!(
            "relays on core {}, load on core {}",
            list(&self.relay),
            list(&self.load)
        )
    }

    /// Starts a relay on its cores.
    pub(crate) fn start_relay(&self, command: &mut Command) -> io::Result<Process> {
        if self.relay.is_empty() {
            return command.spawn().map(Process);
        }
        // A child begins on its parent's cores.
        move_to(&self.relay);
        let started = command.spawn();
        move_to(&self.load);
        started.map(Process)
    }
}

impl Process {
    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// The CPU time that its threads have used up to now: `/proc/PID/task/*/schedstat`, in nanoseconds.
    ///
    /// That is the time for which they were on a core, in user space and in the kernel. What the kernel
    /// does on loopback to deliver a packet, up to the receiver's queue, happens in the sender's time
    /// and is in it, unless the kernel was built with `CONFIG_IRQ_TIME_ACCOUNTING`.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.0.id())
    }

    /// Its memory now.
    pub(crate) fn memory(&self) -> io::Result<Memory> {
        let id = self.0.id();
        let statm = fs::read_to_string(format!("/proc/{id}/statm"))?;
        let pages = statm.split_ascii_whitespace().nth(1);
        let pages: u64 = pages.and_then(|pages| pages.parse().ok()).unwrap_or(0);
        let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
        Ok(Memory {
            resident: pages * u64::try_from(page_size()).unwrap_or(4096),
            proportional: kibibytes_after(&rollup, "Pss:").unwrap_or(0) * 1024,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that does the same in a process that ends when this one ends, however that comes about.
pub(crate) fn on_a_leash(command: &Command) -> io::Result<Command> {
    let mut leashed = Command::new(std::env::current_exe()?);
    leashed
        .arg(LEASHED)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    Ok(leashed)
}

/// The subcommand that [`on_a_leash`] starts.
pub(crate) const LEASHED: &str = "leashed";

/// Becomes a program that ends with the process that started this one. Comes back only when that fails.
pub(crate) fn become_leashed(program: &OsStr, arguments: &[OsString]) -> io::Error {
    match set_parent_process_death_signal(Some(Signal::KILL)) {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error.into(),
    }
}

/// The CPU time of this process.
pub(crate) fn own_cpu() -> Duration {
    cpu_of(std::process::id())
}

/// CPU time that all processes, interrupts and other guests of the host have used since the system
/// started.
pub(crate) fn machine_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(stat.lines().next().unwrap_or_default()).map_or(Duration::ZERO, |ticks| {
        Duration::from_millis(ticks * 1000 / clock_ticks_per_second().max(1))
    })
}

fn cpu_of(process: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Duration::ZERO;
    };
    let nanoseconds = threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .filter_map(|stat| time_on_core(&stat))
        .sum();
    Duration::from_nanos(nanoseconds)
}

/// The first field of a thread's `schedstat`, in nanoseconds.
fn time_on_core(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

/// What `/proc/stat` says of a core, or of all, without idle and waiting time: user, nice, system,
/// idle, iowait, irq, softirq, steal, and guests, which are in user already.
fn busy_ticks(line: &str) -> Option<u64> {
    let fields = line.split_ascii_whitespace().skip(1).take(8);
    fields
        .enumerate()
        .filter(|(place, _)| !matches!(place, 3 | 4))
        .map(|(_, field)| field.parse::<u64>().ok())
        .sum()
}

fn kibibytes_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn allowed_cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}

fn move_to(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    let _ = sched_setaffinity(None, &set);
}

fn list(cores: &[usize]) -> String {
    let cores: Vec<_> = cores.iter().map(ToString::to_string).collect();
    cores.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_time_is_not_busy() {
        let line = "cpu  100 20 30 1000 500 4 5 6 70 80";
        assert_eq!(busy_ticks(line), Some(100 + 20 + 30 + 4 + 5 + 6));
    }

    #[test]
    fn a_thread_s_time_is_the_first_field() {
        assert_eq!(time_on_core("76554 47741 2\n"), Some(76_554));
    }

    #[test]
    fn proportional_memory_is_not_taken_from_another_line() {
        let rollup = "Rss:  9000 kB\nPss_Dirty:  1 kB\nPss:     1234 kB\n";
        assert_eq!(kibibytes_after(rollup, "Pss:"), Some(1234));
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        assert!(own_cpu() > Duration::ZERO);
        assert!(machine_cpu() > Duration::ZERO);
    }
}
