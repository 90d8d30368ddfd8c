//! A service that dies or hangs; a supervisor that dies.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use crate::harness::{PATIENCE, PUSH, SHORT, Setup, eventually, is_healthy, kill};

const BOTH: [(&str, &str); 2] = [("push", "turn"), ("turn", "push")];

#[test]
fn a_service_that_dies_is_started_again_and_the_other_goes_on() {
    let run = Setup::new().start();
    for (dies, goes_on) in BOTH {
        let (before, others) = (run.ready(dies).unwrap(), run.ready(goes_on));
        let mut connection = TcpStream::connect(run.address(goes_on)).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        kill("KILL", before);
        run.next_ready(dies, Some(before));
        assert!(is_healthy(run.address(dies)));
        assert_eq!(run.ready(goes_on), others);
        // a connection from before is still there
        connection
            .write_all(b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(run.count("killed by signal 9"), 2, "{}", run.log());
}

/// Somebody who stops one process alone means that one.
#[test]
fn a_service_that_stops_by_itself_is_started_again() {
    let run = Setup::new().with_first_pause(SHORT).start();
    let before = run.ready("turn").unwrap();
    kill("TERM", before);
    run.next_ready("turn", Some(before));
    assert_eq!(run.count("\"end\":\"exit code 0\""), 1, "{}", run.log());
}

#[test]
fn a_hundred_random_deaths_are_nothing_to_the_other_service() {
    let run = Setup::new().with_first_pause(SHORT).start();
    let mut random = std::hash::DefaultHasher::new();
    for number in 0..100_u32 {
        let (dies, goes_on) = BOTH[usize::from(is_odd(&mut random, number))];
        let (before, others) = (run.next_ready(dies, None), run.ready(goes_on));
        let (is_over, answers) = (AtomicBool::new(false), AtomicU32::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(
                        is_healthy(run.address(goes_on)),
                        "{goes_on} does not answer"
                    );
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
            // death comes while the other is at work
            let at_work = eventually(|| answers.load(Ordering::Relaxed) > 0);
            assert!(at_work);
            kill("KILL", before);
            run.next_ready(dies, Some(before));
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(run.ready(goes_on), others);
    }
    assert_eq!(run.count("killed by signal 9"), 100);
}

fn is_odd(random: &mut std::hash::DefaultHasher, number: u32) -> bool {
    use std::hash::Hasher as _;

    random.write_u32(number);
    random.finish() % 2 == 1
}

#[test]
fn a_configuration_that_becomes_bad_is_tried_until_it_is_good() {
    let run = Setup::new().with_first_pause(SHORT).start();
    let good = std::fs::read_to_string(run.configuration(PUSH)).unwrap();
    run.write(PUSH, "apps: [");
    let (before, others) = (run.ready("push").unwrap(), run.ready("turn"));
    kill("KILL", before);
    let tries = || run.count("\"end\":\"exit code 1\"");
    assert!(eventually(|| tries() >= 3), "{}", run.log());
    // each pause is longer than the one before
    let pauses: Vec<_> = run
        .lines()
        .iter()
        .filter(|line| line["end"] == "exit code 1")
        .filter_map(|line| line["pause_milliseconds"].as_u64())
        .collect();
    assert!(
        pauses.is_sorted_by(|a, b| a < b || *a == 1200),
        "{pauses:?}"
    );
    run.write(PUSH, &good);
    run.next_ready("push", Some(before));
    assert!(is_healthy(run.push));
    assert_eq!(run.ready("turn"), others);
}

#[test]
fn a_service_that_hangs_is_replaced() {
    // silence of a hundred and twenty times as long is too long
    let run = Setup::new().with_first_pause("50").start();
    let (before, others) = (run.ready("push").unwrap(), run.ready("turn"));
    kill("STOP", before);
    run.next_ready("push", Some(before));
    assert_eq!(run.count("silent for too long"), 1, "{}", run.log());
    assert_eq!(run.ready("turn"), others);
}

#[test]
fn nothing_outlives_a_supervisor_that_is_killed() {
    let mut run = Setup::new().start();
    run.signal("KILL");
    run.ended();
    run.assert_nothing_is_left();
    assert_eq!(run.count("the supervisor is gone"), 2, "{}", run.log());
}
