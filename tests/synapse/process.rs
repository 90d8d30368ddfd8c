//! Child processes that end with the test, and the ports they listen on.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use stand_ins::homeserver::Homeserver as Client;

use crate::PATIENCE;

/// A server that is killed when this is dropped. If a test is failing then, what it printed is shown.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command` with no environment but the command's own.
    pub(crate) fn start(name: &'static str, command: &mut Command, folder: &Path) -> Self {
        let output = folder.join(format!("{name}.log"));
        let file = File::create(&output).expect("the folder can be written to");
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be opened twice"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name,
            child,
            output,
        }
    }

    /// Waits until `GET path` is answered with 200.
    pub(crate) async fn wait_until_ready(&mut self, address: SocketAddr, path: &str) {
        let client = Client::new(address);
        let answered = tokio::time::timeout(PATIENCE, async {
            loop {
                let answer = client.request(Method::GET, path, HeaderMap::new(), Bytes::new());
                match answer.await {
                    Ok(answer) if answer.status == 200 => return,
                    Ok(_) | Err(_) => {}
                }
                if let Ok(Some(status)) = self.child.try_wait() {
                    panic!("{} ended before it was ready: {status}", self.name);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(answered.await.is_ok(), "{} never got ready", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let output = fs::read_to_string(&self.output).unwrap_or_default();
            eprintln!("--- what {} printed:\n{output}", self.name);
        }
    }
}

/// A loopback address that nothing listens on, with a port below those that outgoing connections get.
pub(crate) fn free_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let of_this_process = u16::try_from(std::process::id() % 500).expect("less than 500");
    for _ in 0..1000 {
        let port = 20_000 + of_this_process * 20 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port");
}
