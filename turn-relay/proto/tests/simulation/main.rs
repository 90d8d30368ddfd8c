//! Clients, peers and two servers with a network between them that loses, delays, reorders and repeats packets, from the first Binding request to the last
//! Refresh: hours of talk, with time moved by hand.
//!
//! What is drawn depends on nothing but the seed, which a failure prints.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::duration_suboptimal_units, reason = "the RFCs count seconds")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

mod network;
mod participant;

use network::{Network, Weather};

/// Seeds for each weather; fewer without optimization.
const SEEDS: u64 = if cfg!(debug_assertions) { 2 } else { 50 };

/// Says what to draw again when a test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}

fn live_through(weather: &Weather) {
    for seed in 0..SEEDS {
        let seed = Seed(seed);
        let mut network = Network::new(seed.0, weather.clone());
        network.live();
        network.check();
    }
}

#[test]
fn in_fair_weather_everything_arrives_once_and_nothing_else() {
    live_through(&Weather {
        loss: 0,
        duplicates: 0,
        delay: 1..40,
    });
}

#[test]
fn in_rain_everybody_gets_through_to_everybody() {
    live_through(&Weather {
        loss: 5,
        duplicates: 2,
        delay: 1..300,
    });
}

#[test]
fn in_a_storm_nobody_is_stuck_and_nothing_is_left() {
    live_through(&Weather {
        loss: 30,
        duplicates: 10,
        delay: 1..2000,
    });
}

#[test]
fn packets_that_overtake_each_other_by_seconds_do_no_harm() {
    live_through(&Weather {
        loss: 0,
        duplicates: 50,
        delay: 1..9000,
    });
}
