//! The soak: many allocations coming and going for a long time, under floods, and a verdict.

mod flood;
mod population;
mod verdict;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use shared::{clock::Clock, random::Random};

use crate::{
    process::Memory,
    relay::{Relay, Relays, What, bindable_ports},
    say,
    traffic::ratio,
};
use flood::Flood;
use population::Population;
use verdict::{Check, is_flat};

/// Allocations live so long unless they are refreshed.
pub(crate) const LIFETIME: Duration = Duration::from_mins(1);
/// A relay may take so long to notice that one has expired.
const GRACE: Duration = Duration::from_secs(10);
/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How often the person at the terminal is told.
const NEWS: Duration = Duration::from_mins(1);
/// Nobody needs the processor while nothing arrives.
const NAP: Duration = Duration::from_micros(200);

/// How long and how much.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Minutes of traffic; what comes after takes two more.
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Clients that come and go.
    #[arg(long, default_value_t = 5_000)]
    allocations: usize,
    /// Packets a second from the clients; their peers answer each.
    #[arg(long, default_value_t = 5_000)]
    packets: u32,
    /// Packets a second from strangers.
    #[arg(long, default_value_t = 5_000)]
    flood: u32,
    /// coturn instead of Nocturne: a trial of the soak itself.
    #[arg(long)]
    of_coturn: bool,
}

impl Arguments {
    /// Which relay is soaked.
    pub(crate) const fn what(&self) -> What {
        if self.of_coturn {
            What::Coturn
        } else {
            What::Nocturne
        }
    }
}

/// What was seen at one moment.
struct Look {
    /// Since the beginning.
    at: Duration,
    memory: Memory,
    living: usize,
    /// What the relay says, if it says so.
    allocations: Option<u64>,
    /// CPU time since the look before, for each second.
    busy: f64,
}

/// Runs the soak, and says what it found as Markdown, and whether all is well.
pub(crate) fn run(relays: &Relays, arguments: &Arguments) -> Result<(String, bool)> {
    let what = arguments.what();
    let free_before = bindable_ports(what);
    let relay = relays.start(what)?;
    let mut soak = Soak {
        relay: &relay,
        clock: relays.clock.clone(),
        population: Population::new(&relay, arguments.allocations, &relays.clock)?,
        flood: Flood::new(relay.address)?,
        random: Random::seeded(1),
        looks: Vec::new(),
    };
    let began = soak.clock.now();
    let end = began + Duration::from_secs_f64(arguments.minutes * 60.0);
    soak.traffic(began, end, arguments)
        .with_context(|| format!("{} has written:\n{}", what.name(), relay.log()))?;
    say("the end: every allocation is refreshed and used once more");
    soak.population.last_call(&soak.clock)?;
    soak.population.leave(&soak.clock)?;
    let gauge = relay.allocations()?;
    let free_after = bindable_ports(what);
    let missing = free_before
        .iter()
        .filter(|port| free_after.binary_search(port).is_err())
        .count();
    let looks = &soak.looks;
    let resident: Vec<_> = looks.iter().map(|look| look.memory.resident).collect();
    let mut checks = vec![is_flat(&resident)];
    checks.extend(soak.population.checks());
    checks.push(Check::new(
        missing == 0,
        format!(
            "every relayed port was returned: {missing} of {} were not",
            free_before.len()
        ),
    ));
    checks.push(match gauge {
        Some(count) => Check::new(
            count == 0,
            format!("the relay counts {count} allocations at the end"),
        ),
        None => Check::new(
            true,
            format!("{} does not tell how many allocations it has", what.name()),
        ),
    });
    let well = checks.iter().all(|check| check.holds);
    Ok((soak.report(arguments, &checks), well))
}

struct Soak<'a> {
    relay: &'a Relay,
    clock: Clock,
    population: Population,
    flood: Flood,
    random: Random,
    looks: Vec<Look>,
}

impl Soak<'_> {
    fn traffic(&mut self, began: Instant, end: Instant, arguments: &Arguments) -> Result<()> {
        let mut packets = Pace::new(began, arguments.packets);
        let mut strangers = Pace::new(began, arguments.flood);
        let (mut next_look, mut next_news) = (began + LOOK, began + NEWS);
        let (mut looked, mut cpu) = (began, self.relay.process.cpu());
        loop {
            let now = self.clock.now();
            if now >= end {
                return Ok(());
            }
            let mut busy = self.population.turn(now, &self.random)? > 0;
            for _ in 0..packets.due(now) {
                self.population.ping(now, &self.random)?;
                busy = true;
            }
            for _ in 0..strangers.due(now) {
                match flood::victim(&self.random) {
                    Some(number) => self.population.spoof(number, &self.random)?,
                    None => self.flood.send(&self.random)?,
                }
                busy = true;
            }
            self.flood.count_answers()?;
            if now >= next_look {
                next_look += LOOK;
                let used = self.relay.process.cpu();
                self.looks.push(Look {
                    at: now - began,
                    memory: self.relay.process.memory().context("the relay has ended")?,
                    living: self.population.living(),
                    allocations: self.relay.allocations()?,
                    busy: (used.saturating_sub(cpu)).as_secs_f64() / (now - looked).as_secs_f64(),
                });
                (looked, cpu) = (now, used);
            }
            if now >= next_news {
                next_news += NEWS;
                if let Some(look) = self.looks.last() {
                    say(&format!("{} {}", look.row(), self.population.failures()));
                }
            }
            if !busy {
                std::thread::sleep(NAP);
            }
        }
    }

    fn report(&self, arguments: &Arguments, checks: &[Check]) -> String {
        let mut text = format!(
            "## Soak of {}\n\n{} clients for {} minutes, {} packets a second and their answers, {} a second from strangers; \
             allocations live for {LIFETIME:?} unless they are refreshed.\n\n\
             | minute | resident | proportional | allocations living | counted by the relay | core busy |\n\
             |---|---|---|---|---|---|\n",
            self.relay.what.name(),
            arguments.allocations,
            arguments.minutes,
            arguments.packets,
            arguments.flood,
        );
        // a line for each minute, and all of them if there are few
        let step = if self.looks.len() > 30 { 6 } else { 1 };
        for look in self.looks.iter().skip(step - 1).step_by(step) {
            let _ = writeln!(text, "{}", look.row());
        }
        let _ = writeln!(
            text,
            "\n{}\n{}\n",
            self.population.summary(),
            self.flood.summary()
        );
        for check in checks {
            let _ = writeln!(
                text,
                "- {}: {}",
                if check.holds { "yes" } else { "**no**" },
                check.text
            );
        }
        let verdict = if checks.iter().all(|check| check.holds) {
            "All is well."
        } else {
            "**Not all is well.**"
        };
        let _ = writeln!(text, "\n{verdict}");
        text
    }
}

impl Look {
    fn row(&self) -> String {
        let mebibytes = |bytes| ratio(bytes, 1 << 20);
        format!(
            "| {:.1} | {:.2} MiB | {:.2} MiB | {} | {} | {:.0} % |",
            self.at.as_secs_f64() / 60.0,
            mebibytes(self.memory.resident),
            mebibytes(self.memory.proportional),
            self.living,
            self.allocations
                .map_or_else(|| "–".to_owned(), |count| count.to_string()),
            self.busy * 100.0,
        )
    }
}

/// So many a second, evenly.
struct Pace {
    began: Instant,
    rate: f64,
    done: u64,
}

impl Pace {
    fn new(began: Instant, rate: u32) -> Self {
        Self {
            began,
            rate: rate.into(),
            done: 0,
        }
    }

    /// How many are due now, few at once: what was missed in a stall is made up for later.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate times a duration is positive, and far from 2^53"
    )]
    fn due(&mut self, now: Instant) -> u64 {
        let wanted = (self.rate * (now - self.began).as_secs_f64()) as u64;
        let due = wanted.saturating_sub(self.done).min(32);
        self.done += due;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_gives_what_is_due_and_catches_up_slowly() {
        let clock = Clock::manual(std::time::UNIX_EPOCH);
        let began = clock.now();
        let mut pace = Pace::new(began, 1_000);
        assert_eq!(pace.due(began), 0);
        assert_eq!(pace.due(began + Duration::from_millis(5)), 5);
        assert_eq!(pace.due(began + Duration::from_millis(5)), 0);
        let later = began + Duration::from_millis(55);
        assert_eq!(
            (pace.due(later), pace.due(later), pace.due(later)),
            (32, 18, 0)
        );
    }
}
