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

use std::{
    fs::{self, File},
    iter,
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

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

/// About as many files may be opened once everything is set up.
const SPARE: u64 = 60;

#[test]
fn without_open_files_clients_wait_and_the_thread_rests() {
    let mut settings = settings();
    settings.workers = 1;
    settings.tcp = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let relay = start(settings, reloadable());
    let mut over_udp = udp_client(relay.local_addresses()[0]);
    let _held = limit_files();

    let mut streams = Vec::new();
    loop {
        match TcpStream::connect(relay.local_addresses()[1]) {
            Ok(stream) => streams.push(stream),
            // the kernel takes a file for an accept also if there is nobody to accept
            Err(_) if relay.connections().tcp == streams.len() as u64 => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(_) => break,
        }
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

/// A connection takes two files, one of the client's and one of the relay's. An odd number of them can be opened as long
/// as the result is kept: one client at least is not accepted.
fn limit_files() -> Option<File> {
    let open = fs::read_dir("/proc/self/fd")
        .expect("there is a /proc")
        .count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(open + SPARE),
        maximum,
    };
    setrlimit(Resource::Nofile, limit).expect("a lower limit is allowed");
    let mut files: Vec<_> = iter::from_fn(|| File::open("/dev/null").ok()).collect();
    if files.len() % 2 == 0 {
        files.pop()
    } else {
        None
    }
}

/// What the process has used, which takes no open file to know.
fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime)
        .try_into()
        .expect("not negative")
}
