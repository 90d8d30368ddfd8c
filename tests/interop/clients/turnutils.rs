//! coturn's own test clients: `turnutils_uclient` and `turnutils_stunclient`.
//!
//! `turnutils_uclient` makes two allocations (with `-y` four, which are each other's peers) the second of each pair
//! with the reservation of the first one's EVEN-PORT, unless `-c` says not to. It binds a channel or (`-s`) sends
//! indications, and counts what comes back. Its dual allocations (`-Z`) are those of a draft, with other numbers than
//! RFC 8656 has, and are left out.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use shared::clock::Clock;

use crate::{
    PAUSE,
    process::{Finished, Process, free_port, listens},
    relay::{Credential, Family, Place, Relay, Transport},
    requirements::program,
};

/// Messages of each allocation.
const MESSAGES: usize = 20;

/// How often channel numbers are drawn. Coturn 4.6.1 has them from all that RFC 5766 §11 allowed, of which RFC 8656 §12
/// left a quarter: with two channels, one draw of sixteen will do.
const DRAWS: usize = 300;

/// How long clients without manners are put up with.
const ANNOYANCE: Duration = Duration::from_secs(20);

/// One run of `turnutils_uclient`.
#[derive(Clone, Copy, Debug)]
struct Run {
    family: Family,
    peer: Peer,
    /// What is asked for beside that.
    flags: &'static str,
}

/// Who sends back what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// `turnutils_peer`.
    Echo,
    /// Another client of the same relay (`-y`).
    Client,
}

const fn run(family: Family, peer: Peer, flags: &'static str) -> Run {
    Run {
        family,
        peer,
        flags,
    }
}

const OVER_UDP: [Run; 13] = [
    // channels, with EVEN-PORT and RESERVATION-TOKEN
    run(Family::IPv4, Peer::Echo, ""),
    // Send and Data indications, with both, too
    run(Family::IPv4, Peer::Echo, "-s"),
    run(Family::IPv4, Peer::Client, "-s"),
    // one allocation for each client
    run(Family::IPv4, Peer::Client, "-c"),
    run(Family::IPv4, Peer::Client, "-c -s"),
    // DONT-FRAGMENT, when allocating and in each indication
    run(Family::IPv4, Peer::Echo, "-c -g"),
    run(Family::IPv4, Peer::Client, "-g -s -l 1200"),
    // channel data padded to four bytes
    run(Family::IPv4, Peer::Echo, "-c -D -l 171"),
    // permissions asked for more often than needed
    run(Family::IPv4, Peer::Client, "-G -s"),
    // IPv6 between client and relay, between relay and peer, and on both sides
    run(Family::IPv6, Peer::Client, "-X -s"),
    run(Family::IPv4, Peer::Client, "-x -s"),
    run(Family::IPv6, Peer::Echo, "-c -x"),
    run(Family::IPv6, Peer::Client, "-x -s"),
];

const OVER_TCP: [Run; 4] = [
    run(Family::IPv4, Peer::Echo, "-c -l 171"),
    run(Family::IPv4, Peer::Client, "-c"),
    run(Family::IPv4, Peer::Client, "-s -l 171"),
    run(Family::IPv6, Peer::Client, "-x -s"),
];

/// The client takes one TLS record for one message. So that nothing puts two messages into one, they are half a second
/// apart.
const OVER_TLS: [Run; 4] = [
    run(Family::IPv4, Peer::Echo, "-c -l 171 -z 500"),
    run(Family::IPv4, Peer::Client, "-s -z 500"),
    run(Family::IPv4, Peer::Client, "-s -l 171 -z 500"),
    run(Family::IPv6, Peer::Client, "-x -s -z 500"),
];

#[test]
fn uclient_loses_nothing_over_udp() {
    nothing_is_lost(Transport::Udp, &OVER_UDP, 1);
}

#[test]
fn uclient_loses_nothing_over_tcp() {
    nothing_is_lost(Transport::Tcp, &OVER_TCP, 1);
}

#[test]
fn uclient_loses_nothing_over_tls() {
    nothing_is_lost(Transport::Tls, &OVER_TLS, 3);
}

#[test]
fn wrong_and_expired_credentials_get_no_allocation() {
    let Some(stage) = Stage::set() else { return };
    let fresh = Credential::fresh("alice");
    let wrong = Credential {
        password: "bm90IHRoaXMgb25l".to_owned(),
        ..fresh.clone()
    };
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        for credential in [&wrong, &Credential::expired("alice")] {
            let once = run(Family::IPv4, Peer::Client, "-c");
            let finished = stage.uclient(transport, once, credential);
            // it goes on asking, until its connection is closed
            let given_up = ["Cannot complete Allocation", "recv: Success"];
            assert!(
                !finished.status.success()
                    && given_up.iter().any(|end| finished.output.contains(end)),
                "{transport:?} with {credential:?}: {}",
                finished.output
            );
        }
        // and it was the credential
        let once = run(Family::IPv4, Peer::Client, "-c -s -z 500 -n 2");
        let finished = stage.uclient(transport, once, &fresh);
        assert!(finished.status.success(), "{}", finished.output);
    }
}

#[test]
fn clients_that_break_the_rules_or_vanish_do_no_harm_to_others() {
    let Some(stage) = Stage::set() else { return };
    let rude = [
        // broken messages, wrong attributes, sockets that are closed halfway, allocations that are left behind
        (Transport::Udp, "-R -c"),
        (Transport::Tcp, "-R -c"),
        (Transport::Udp, "-N"),
        (Transport::Udp, "-B"),
        (Transport::Tcp, "-B"),
        (Transport::Udp, "-O"),
        (Transport::Tcp, "-O"),
    ];
    let mut clients: Vec<_> = rude
        .into_iter()
        .enumerate()
        .map(|(number, (transport, flags))| {
            let credential = Credential::fresh(&format!("rude-{number}"));
            stage.start_uclient(
                transport,
                run(Family::IPv4, Peer::Client, flags),
                &credential,
            )
        })
        .collect();
    // some wait for ever for an answer that nobody owes them; how they end is their own affair
    let clock = Clock::system();
    let end = clock.now() + ANNOYANCE;
    while clock.now() < end && !clients.iter_mut().all(Process::has_ended) {
        thread::sleep(PAUSE);
    }
    drop(clients);
    for transport in [Transport::Udp, Transport::Tcp] {
        let polite = run(Family::IPv4, Peer::Client, "-s");
        let finished = stage.uclient(transport, polite, &Credential::fresh("polite"));
        assert_eq!(polite.complaint(&finished), None);
    }
}

#[test]
fn stunclient_learns_its_address() {
    let Some(stunclient) = program(&["turnutils_stunclient"], "coturn") else {
        return;
    };
    let Some(relay) = Relay::start(Place::Loopback) else {
        return;
    };
    for family in [Family::IPv4, Family::IPv6] {
        let server = relay.address(Transport::Udp, family);
        let mut command = Command::new(&stunclient);
        command.args(["-p", &server.port().to_string(), &server.ip().to_string()]);
        let finished = Process::start("stunclient", &mut command, relay.folder()).finish();
        // 0: : IPv4. UDP reflexive addr: 127.0.0.1:33920, for IPv6 without brackets
        let reflexive = finished
            .output
            .lines()
            .find_map(|line| line.split_once("UDP reflexive addr: "))
            .and_then(|(_, address)| address.trim().rsplit_once(':'));
        let (ip, port) = reflexive.unwrap_or_else(|| panic!("{}", finished.output));
        assert_eq!(ip.parse(), Ok(server.ip()));
        assert_ne!(port.parse(), Ok(0_u16));
    }
}

/// Makes all of `runs` side by side with one relay, and each up to `tries` times.
fn nothing_is_lost(transport: Transport, runs: &[Run], tries: usize) {
    let Some(stage) = Stage::set() else { return };
    let complaints: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = runs
            .iter()
            .enumerate()
            .map(|(number, run)| {
                let stage = &stage;
                scope.spawn(move || stage.complaint(transport, *run, number, tries))
            })
            .collect();
        running
            .into_iter()
            .filter_map(|run| run.join().expect("a run does not panic"))
            .collect()
    });
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

/// A relay and a peer that sends everything back.
struct Stage {
    uclient: PathBuf,
    relay: Relay,
    echo_port: u16,
    _echo: Process,
}

impl Stage {
    fn set() -> Option<Self> {
        let uclient = program(&["turnutils_uclient"], "coturn")?;
        let peer = program(&["turnutils_peer"], "coturn")?;
        let relay = Relay::start(Place::Loopback)?;
        let echo_port = free_port();
        let echo = start_echo(&peer, echo_port, relay.folder());
        Some(Self {
            uclient,
            relay,
            echo_port,
            _echo: echo,
        })
    }

    /// What there is to complain about after the last try.
    fn complaint(
        &self,
        transport: Transport,
        run: Run,
        number: usize,
        tries: usize,
    ) -> Option<String> {
        let mut complaint = None;
        let mut attempts = 0;
        for draw in 0..DRAWS {
            let credential = Credential::fresh(&format!("user-{number}-{draw}"));
            let finished = self.uclient(transport, run, &credential);
            complaint = run.complaint(&finished);
            if finished.output.contains("channel bind: error 400") {
                continue;
            }
            attempts += 1;
            if complaint.is_none() || attempts == tries {
                break;
            }
        }
        complaint.map(|complaint| format!("{transport:?} {run:?}: {complaint}"))
    }

    fn uclient(&self, transport: Transport, run: Run, credential: &Credential) -> Finished {
        self.start_uclient(transport, run, credential).finish()
    }

    fn start_uclient(&self, transport: Transport, run: Run, credential: &Credential) -> Process {
        let server = self.relay.address(transport, run.family);
        let mut command = Command::new(&self.uclient);
        command
            .args(["-u", &credential.username, "-w", &credential.password])
            .args(["-p", &server.port().to_string()])
            .args(["-n", &MESSAGES.to_string()]);
        match transport {
            Transport::Udp => {}
            Transport::Tcp => {
                command.arg("-t");
            }
            Transport::Tls => {
                command
                    .args(["-t", "-S", "-E"])
                    .arg(&self.relay.authority.ca);
            }
        }
        match run.peer {
            Peer::Client => {
                command.arg("-y");
            }
            Peer::Echo => {
                let ip: IpAddr = match run.family {
                    Family::IPv4 => Ipv4Addr::LOCALHOST.into(),
                    Family::IPv6 => Ipv6Addr::LOCALHOST.into(),
                };
                command.args(["-e", &ip.to_string(), "-r", &self.echo_port.to_string()]);
            }
        }
        command
            .args(run.flags.split_whitespace())
            .arg(server.ip().to_string());
        Process::start("uclient", &mut command, self.relay.folder())
    }
}

impl Run {
    /// What is wrong with how it ended, if anything is.
    fn complaint(self, finished: &Finished) -> Option<String> {
        let expected = self.allocations() * MESSAGES;
        let counts = counts(&finished.output);
        let is_good = finished.status.success() && counts == Some((expected, expected));
        (!is_good).then(|| {
            format!(
                "{}, {counts:?} messages sent and received instead of {expected}\n{}",
                finished.status, finished.output
            )
        })
    }

    fn allocations(self) -> usize {
        let clients = match self.peer {
            Peer::Echo => 1,
            Peer::Client => 2,
        };
        let is_alone = self.flags.split_whitespace().any(|flag| flag == "-c");
        if is_alone { clients } else { clients * 2 }
    }
}

/// How many messages were sent and received, as the report at the end says.
fn counts(output: &str) -> Option<(usize, usize)> {
    let report = output
        .lines()
        .rfind(|line| line.contains("start_mclient: tot_send_msgs="))?;
    let count = |name| {
        let (_, rest) = report.split_once(name)?;
        rest.split(',').next()?.trim().parse().ok()
    };
    Some((count("tot_send_msgs=")?, count("tot_recv_msgs=")?))
}

fn start_echo(program: &Path, port: u16, folder: &Path) -> Process {
    let mut command = Command::new(program);
    command.args(["-p", &port.to_string(), "-L", "127.0.0.1", "-L", "::1"]);
    let mut echo = Process::start("peer", &mut command, folder);
    let id = echo.id();
    echo.wait_until("listening", || listens(id, "udp", port));
    echo
}
