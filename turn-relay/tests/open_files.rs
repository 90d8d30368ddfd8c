//! The relay when there are no more open files. Alone in its process, since the limit is the process's.
#![cfg(target_os = "linux")]

#[path = "workers/client.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod client;
#[path = "workers/relay.rs"]
mod relay;
#[path = "workers/stream.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod stream;

use std::{fs, net::SocketAddr, net::TcpStream, thread, time::Duration};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use turn_relay_proto::stun::{Class, Method};

use crate::{
    client::{Client, PATIENCE, udp_client},
    relay::{reloadable, settings, start},
    stream::Framed,
};

/// Files that may be opened once everything is set up. A connection takes two, one of the client's and one of the
/// relay's; the number is odd, so that one client at least is not accepted.
const SPARE: u64 = 61;

#[test]
fn without_open_files_clients_wait_and_the_thread_rests() {
    let mut settings = settings();
    settings.workers = 1;
    settings.tcp = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let relay = start(settings, reloadable());
    let mut over_udp = udp_client(relay.local_addresses()[0]);
    limit_files();

    let mut streams = Vec::new();
    while let Ok(stream) = TcpStream::connect(relay.local_addresses()[1]) {
        streams.push(stream);
    }
    assert!(relay.connections().tcp < streams.len() as u64);

    let before = cpu();
    thread::sleep(Duration::from_millis(500));
    let used = cpu().saturating_sub(before);
    assert!(used < Duration::from_millis(100), "{used:?} for nothing");
    assert_eq!(
        over_udp.ask(Method::Binding, &|_| {}).message().class(),
        Class::Success
    );

    // the last ones to come are those that wait
    let waiting = streams.split_off(streams.len() * 3 / 4);
    drop(streams);
    for stream in waiting {
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let mut client = Client::new(Framed::new(stream));
        let answer = client.ask(Method::Binding, &|_| {});
        assert_eq!(answer.message().class(), Class::Success);
    }
}

fn limit_files() {
    // less the one of the folder that is read
    let open = fs::read_dir("/proc/self/fd")
        .expect("there is a /proc")
        .count() as u64
        - 1;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(open + SPARE),
        maximum,
    };
    setrlimit(Resource::Nofile, limit).expect("a lower limit is allowed");
}

/// What the process has used, which takes no open file to know.
fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime)
        .try_into()
        .expect("not negative")
}
