//! Another version takes over; the gateway outlives the relay.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use crate::harness::{Setup, eventually, is_healthy, kill};

#[test]
fn sigusr2_exchanges_both_and_the_gateway_answers_all_the_time() {
    let mut run = Setup::new().with_own_program().start();
    let (is_over, answers) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert!(is_healthy(run.push), "the gateway does not answer");
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 1..=3 {
            let before = (run.ready("push").unwrap(), run.ready("turn").unwrap());
            run.replace_program();
            run.signal("USR2");
            let pids = [
                run.next_ready("push", Some(before.0)),
                run.next_ready("turn", Some(before.1)),
            ];
            for pid in pids {
                let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
                assert_eq!(program, run.program(), "the new program runs");
            }
            let ended = eventually(|| run.count("the old version ended") == round);
            assert!(ended, "{}", run.log());
        }
        let enough = answers.load(Ordering::Relaxed) + 10;
        assert!(eventually(|| answers.load(Ordering::Relaxed) > enough));
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(run.count("\"end\":\"exit code 0\""), 6, "{}", run.log());
    run.signal("TERM");
    assert_eq!(run.ended().code(), Some(0), "{}", run.log());
    run.assert_nothing_is_left();
}

#[test]
fn a_version_that_does_not_start_takes_nothing_over_from_the_gateway() {
    let run = Setup::new().with_own_program().start();
    let before = run.ready("push");
    fs::remove_file(run.program()).unwrap();
    fs::write(run.program(), "this is no program").unwrap();
    run.signal("USR2");
    let refused = eventually(|| run.count("the one that runs goes on") == 1);
    assert!(refused, "{}", run.log());
    assert!(is_healthy(run.push));
    assert_eq!(run.ready("push"), before);
    // the relay had to end first, and is there again
    let again = eventually(|| run.count("the one before is started again") == 1);
    assert!(again, "{}", run.log());
    assert!(eventually(|| is_healthy(run.turn)), "{}", run.log());
}

#[test]
fn the_gateway_serves_until_the_relay_has_ended() {
    let mut run = Setup::new().start();
    let (push, turn) = (run.ready("push").unwrap(), run.ready("turn").unwrap());
    // a relay that waits for its last call
    kill("STOP", turn);
    run.signal("TERM");
    assert!(eventually(|| run.count("finish what is under way") > 0));
    for _ in 0..20 {
        assert!(is_healthy(run.push));
    }
    // one that dies meanwhile is started again
    kill("KILL", push);
    run.next_ready("push", Some(push));
    assert!(is_healthy(run.push));
    kill("CONT", turn);
    assert_eq!(run.ended().code(), Some(0), "{}", run.log());
    run.assert_nothing_is_left();
}

/// With nothing but a second signal the gateway has not been told of a stop yet.
#[test]
fn a_second_stop_ends_a_gateway_that_waits_for_the_relay_at_once() {
    let mut run = Setup::new().start();
    kill("STOP", run.ready("turn").unwrap());
    run.signal("TERM");
    assert!(eventually(|| run.count("finish what is under way") > 0));
    run.signal("TERM");
    // the gateway by itself, the relay killed
    assert_eq!(run.ended().code(), Some(3), "{}", run.log());
    assert_eq!(run.count("silent for too long"), 1, "{}", run.log());
    run.assert_nothing_is_left();
}
