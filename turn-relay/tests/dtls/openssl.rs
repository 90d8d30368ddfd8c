//! OpenSSL's `s_client` as a client: what it reads it sends, and what it is sent it writes.

use std::{
    io::{self, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use shared::clock::Clock;
use turn_relay_proto::{
    counters::Handshake,
    stun::channel_data::{Frame, frame},
};

use crate::{
    Relay,
    client::{Client, PATIENCE, Wire},
    relay,
    traffic::relays_both_ways,
    wait_until,
};

/// A session of a process that ends with this.
struct OpenSsl {
    child: Child,
    stdin: ChildStdin,
    output: Receiver<Vec<u8>>,
    read: Vec<u8>,
}

/// Whether the program is there. In CI it has to be.
fn is_there() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok();
    if !found {
        assert!(
            shared::environment::Environment::of_process()
                .get("CI")
                .is_none(),
            "openssl is not installed"
        );
        eprintln!("skipped: openssl is not installed");
    }
    found
}

fn pump(mut stdout: ChildStdout) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(len @ 1..) = stdout.read(&mut buffer) {
            if sender.send(buffer[..len].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

impl OpenSsl {
    fn connect(relay: &Relay, more: &[&str]) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = folder.path().join("authority.pem");
        std::fs::write(&authority, relay.authority.pem())?;
        let mut child = Command::new("openssl")
            .args(["s_client", "-dtls1_2", "-quiet", "-verify_return_error"])
            .args(["-verify_hostname", "localhost", "-CAfile"])
            .arg(&authority)
            .arg("-connect")
            .arg(relay.dtls().to_string())
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let wire = Self {
            child,
            stdin,
            output: pump(stdout),
            read: Vec::new(),
        };
        // it reads the file before it connects
        wait_until("a handshake", || {
            relay.handshakes(Handshake::Completed) + relay.handshakes(Handshake::TimedOut) > 0
        });
        Ok(wire)
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Wire for OpenSsl {
    fn send(&mut self, message: &[u8]) {
        self.stdin.write_all(message).expect("it reads");
        self.stdin.flush().expect("it reads");
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            // as on a stream: what is sent here has a length that is a multiple of four
            if let Frame::Message { len, padded_len } = frame(&self.read)
                && self.read.len() >= padded_len
            {
                let mut message: Vec<u8> = self.read.drain(..padded_len).collect();
                message.truncate(len);
                return Some(message);
            }
            let more = self.output.recv_timeout(PATIENCE).ok()?;
            self.read.extend_from_slice(&more);
        }
    }
}

fn relays_for_openssl(more: &[&str]) {
    if !is_there() {
        return;
    }
    let relay = Relay::start();
    let wire = OpenSsl::connect(&relay, more).expect("openssl can be started");
    let mut client = Client::new(wire);
    relays_both_ways(&mut client, &[4, 160, 1_200, 4_000]);
    assert_eq!(relay.workers.allocations(), 1);
    // at the end of its input it says so
    drop(client);
}

#[test]
fn openssl_is_a_client() {
    relays_for_openssl(&[]);
}

#[test]
fn openssl_is_a_client_with_each_cipher_suite() {
    for suite in [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ] {
        relays_for_openssl(&["-cipher", suite]);
    }
}

#[test]
fn openssl_is_a_client_in_small_pieces() {
    relays_for_openssl(&["-mtu", "300"]);
}

/// `dimpl` does not answer it, so that it waits until its time is over.
#[test]
fn openssl_without_a_common_cipher_suite_gets_no_session() {
    if !is_there() {
        return;
    }
    let mut reloadable = relay::reloadable();
    reloadable.tls_handshake = Duration::from_secs(1);
    let relay = Relay::with(relay::settings(), reloadable, Clock::system());
    let more = ["-cipher", "ECDHE-RSA-AES128-GCM-SHA256"];
    let _wire = OpenSsl::connect(&relay, &more).expect("openssl can be started");
    assert_eq!(relay.handshakes(Handshake::Completed), 0);
}
