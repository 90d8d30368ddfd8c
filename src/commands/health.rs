//! `nocturne health`: whether the services answer, for whoever starts what does not.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use shared::environment::Environment;
use url::Url;

use super::{Configured, PUSH_FILE, TURN_FILE, configured, failed, say};

/// For a connection, and for each part of an answer. Both services are on this host.
const PATIENCE: Duration = Duration::from_secs(3);

/// More than any answer has.
const LONGEST_ANSWER: u64 = 64 << 10;

/// Ask the services of this host whether they are well
///
/// One line for each, from its /health and /ready. Exit code 0 if each of them is up, 1 otherwise: for a
/// container's health check, which has no shell. A service that is up but not ready (an Apple or Google that is
/// down, a certificate that has expired) is told, and is a failure with --ready alone: starting it again would
/// end its calls and mend nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nocturne health --config-dir /etc/nocturne\n  nocturne health http://127.0.0.1:3480"
)]
pub(crate) struct Arguments {
    /// A folder with push-gateway.yaml, turn-relay.yaml or both in it, which say where to ask. Without it:
    /// /etc/nocturne, else ./config.
    #[arg(long, value_name = "DIR", conflicts_with = "urls")]
    config_dir: Option<PathBuf>,
    /// Whether being ready is asked for, too.
    #[arg(long)]
    ready: bool,
    /// Services to ask in the place of those that are configured: http://HOST:PORT.
    #[arg(value_name = "URL")]
    urls: Vec<Url>,
}

/// What a service said of itself.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// Up; what it says of why it is not ready.
    Unready(String),
    /// What came in the place of a good answer.
    Down(String),
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let services = if arguments.urls.is_empty() {
        match of_configuration(arguments, environment) {
            Ok(services) => services,
            Err(problem) => return failed(&problem),
        }
    } else {
        arguments.urls.iter().map(of_url).collect()
    };
    let mut is_well = true;
    for (name, address) in services {
        let state = match &address {
            Ok(address) => state(*address),
            Err(problem) => State::Down(problem.clone()),
        };
        let place =
            address.map_or_else(|_| String::new(), |address| format!(" (http://{address})"));
        let (line, is_good) = match state {
            State::Ready => ("up and ready".to_owned(), true),
            State::Unready(why) => (format!("up, not ready: {why}"), !arguments.ready),
            State::Down(why) => (format!("DOWN: {why}"), false),
        };
        is_well &= is_good;
        say(&mut io::stdout(), &format!("{name}{place}: {line}\n"));
    }
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A name for people, and where to ask, or why that is not known.
type Service = (String, Result<SocketAddr, String>);

fn of_configuration(
    arguments: &Arguments,
    environment: &Environment,
) -> Result<Vec<Service>, String> {
    let Configured { folder, files } = configured(arguments.config_dir.as_deref(), environment)
        .map_err(|looked| {
            format!(
                "whom to ask? There is no {PUSH_FILE} and no {TURN_FILE} in {} (name another folder with \
                 --config-dir, or a URL)",
                looked.join(" or ")
            )
        })?;
    let service = |file: &&str| {
        let path = folder.join(file);
        let (name, addresses) = if *file == PUSH_FILE {
            let addresses = push_gateway::config::http_addresses(&path, environment);
            ("push gateway", addresses)
        } else {
            let addresses = turn_relay::config::http_addresses(&path, environment);
            ("TURN relay", addresses)
        };
        let address = addresses
            .map_err(|problems| problems.join("; "))
            .and_then(|addresses| {
                let unknown = "it is not configured to listen on an address whose port is known (for health checks, \
                               give it one in `http`)";
                let known = addresses.into_iter().find(|address| address.port() != 0);
                known.map(reachable).ok_or_else(|| unknown.to_owned())
            });
        (name.to_owned(), address)
    };
    Ok(files.iter().map(service).collect())
}

fn of_url(url: &Url) -> Service {
    let address = || {
        if url.scheme() != "http" {
            return Err(
                "expected http://HOST:PORT: the services themselves speak no TLS".to_owned(),
            );
        }
        let addresses = url
            .socket_addrs(|| None)
            .map_err(|error| error.to_string())?;
        addresses
            .first()
            .copied()
            .ok_or_else(|| "that name has no address".to_owned())
    };
    // Without a user and a password that may be in it.
    let name = url.host_str().unwrap_or_default().to_owned();
    (name, address())
}

/// Where a listener is reached from this very host.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listener.port())
}

fn state(address: SocketAddr) -> State {
    match ask(address, "/health") {
        Ok((200, _)) => {}
        Ok((status, body)) => {
            return State::Down(format!("/health answers {status}: {}", shown(&body)));
        }
        Err(error) => return State::Down(error.to_string()),
    }
    match ask(address, "/ready") {
        Ok((200, _)) => State::Ready,
        Ok((status, body)) => State::Unready(
            reasons(&body).unwrap_or_else(|| format!("/ready answers {status}: {}", shown(&body))),
        ),
        Err(error) => State::Unready(format!("/ready: {error}")),
    }
}

/// Status and body.
fn ask(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let read = stream.take(LONGEST_ANSWER).read_to_end(&mut answer);
    if let Err(error) = read {
        let late = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
        if late.contains(&error.kind()) {
            let text = format!("no whole answer within {} s", PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        return Err(error);
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| io::Error::other("what answers there does not speak HTTP"))?;
    Ok((status, body.to_owned()))
}

/// What `/ready` gives as its reasons.
fn reasons(body: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    let reasons = json.get("reasons")?.as_array()?;
    let reasons: Vec<_> = reasons
        .iter()
        .filter_map(|reason| reason.as_str())
        .collect();
    (!reasons.is_empty()).then(|| shown(&reasons.join("; ")))
}

/// One line, and not a long one.
fn shown(text: &str) -> String {
    const LONGEST: usize = 300;
    text.chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(LONGEST)
        .collect()
}
