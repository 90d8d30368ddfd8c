//! With how many relay threads coturn does best on these cores.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::Bench;
use crate::{
    relay::{Threads, What},
    report::median,
    say,
    stage::{Stage, Way},
    traffic::Offer,
};

const CANDIDATES: [Threads; 3] = [Threads::Some(0), Threads::Some(1), Threads::Default];
const FLOWS: usize = 100;
const SIZE: usize = 160;

impl Bench {
    /// Tries coturn without relay threads, with one and with its default, keeps what takes the least CPU time for a
    /// packet, all three ways together, and says so.
    pub(crate) fn calibrate(&mut self) -> Result<String> {
        let mut stages = Vec::new();
        for threads in CANDIDATES {
            say(&format!("calibration: {}", threads.describe()));
            self.relays.threads = threads;
            stages.push(Stage::set(&self.relays, What::Coturn, FLOWS)?);
        }
        let mut sums = [0.0; CANDIDATES.len()];
        let mut text = String::from("coturn's CPU time for a packet:");
        for way in Way::ALL {
            let mut samples = [const { Vec::new() }; CANDIDATES.len()];
            let offer = Offer {
                size: SIZE,
                rate: self.plan.rate,
                duration: self.plan.window,
            };
            self.rounds(&mut stages, |stages, number, counts| {
                let (delivered, used) = self.deliver(stages, number, way, offer)?;
                if let (true, Some(samples)) = (counts, samples.get_mut(number)) {
                    samples.push(used.each(delivered.received));
                }
                Ok(())
            })?;
            for ((sum, samples), threads) in sums.iter_mut().zip(samples).zip(CANDIDATES) {
                let each = median(samples.into_iter()).unwrap_or(f64::MAX);
                *sum += each;
                let _ = write!(
                    text,
                    " {}, {}: {each:.2} µs;",
                    way.name(),
                    threads.describe()
                );
            }
        }
        let least = sums
            .iter()
            .zip(CANDIDATES)
            .min_by(|a, b| a.0.total_cmp(b.0));
        let (_, threads) = least.context("there are candidates")?;
        self.relays.threads = threads;
        let _ = write!(text, " taken: {}.", self.relays.threads.describe());
        Ok(text)
    }
}
