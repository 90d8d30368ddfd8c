//! A real nginx behind `listen.https_backend`, with the lines of docs/one-port.md, asked by a real curl.
//!
//! Where one of them is missing (Debian: `nginx-light`, `curl`), the test says so and does nothing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::json;
use shared::environment::Environment;

use crate::{
    client::{Client, Peer},
    relay::{Relay, Setup},
    time::eventually,
    wire,
};

const DOCUMENT: &str = include_str!("../../docs/one-port.md");

/// What the document's lines call it, and which of these tests' servers it is.
const NGINX: &str = "127.0.0.1:8443";
const HOMESERVER: &str = "127.0.0.1:8008";

/// Ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let environment = Environment::of_process();
    let path = environment.get("PATH").unwrap_or_default();
    let program = path
        .split(':')
        .chain(["/usr/sbin", "/usr/local/sbin"])
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file());
    if program.is_none() {
        eprintln!("skipped: there is no {name}");
    }
    program
}

/// A homeserver that answers with the head of the request, for as long as the process lives.
fn homeserver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                head.len()
            );
            let _ = stream.write_all(&[answer.as_bytes(), &head].concat());
        }
    });
    address
}

/// nginx with the document's lines.
fn start_nginx(nginx: &Path, folder: &Path, homeserver: SocketAddr) -> (Process, SocketAddr) {
    let server = DOCUMENT
        .split_once("```nginx\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(server, _)| server)
        .unwrap();
    assert!(server.contains(NGINX) && server.contains(HOMESERVER));
    // of another process's ports this one is as likely as any
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let address = address.unwrap();
    let server = server
        .replace(NGINX, &address.to_string())
        .replace(HOMESERVER, &homeserver.to_string());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    let text = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n\
         {temporary}{server}}}\n"
    );
    fs::write(folder.join("nginx.conf"), text).unwrap();
    let child = Command::new(nginx)
        .arg("-p")
        .arg(folder)
        .args(["-c", "nginx.conf", "-e", "stderr"])
        .env_clear()
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child);
    assert!(eventually(|| TcpStream::connect(address).is_ok()));
    (process, address)
}

/// What curl prints, and what came of it.
fn curl(curl: &Path, relay: &Relay, arguments: &[&str]) -> String {
    let authority = relay.folder().join("authority.pem");
    fs::write(&authority, relay.authority()).unwrap();
    let output = Command::new(curl)
        .args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
        .arg(&authority)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", relay.log());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_gets_a_page_from_nginx_and_a_call_goes_through_the_same_port() {
    let (Some(nginx), Some(program)) = (program("nginx"), program("curl")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (_nginx, backend) = start_nginx(&nginx, folder.path(), homeserver());
    let listen = json!({
        "udp": [],
        "tcp": [],
        "tls": ["127.0.0.1:0"],
        "https_backend": backend.to_string(),
        "https_backend_proxy_protocol": true,
    });
    let relay = Setup::new(&json!({ "listen": listen }))
        .with_tls(&["127.0.0.1"])
        .start();
    let address = relay.tcp[0];
    let page = format!("https://{address}/_matrix/client/versions");

    // the client's word about its address is not taken, and its real one is
    let from = ["--interface", "127.0.0.7"];
    let claim = ["--header", "X-Forwarded-For: 8.8.8.8"];
    for version in [&["--http1.1"][..], &["--http2"], &["--no-alpn"]] {
        let seen = curl(
            &program,
            &relay,
            &[version, &from, &claim, &[page.as_str()]].concat(),
        );
        let seen = seen.to_ascii_lowercase();
        assert!(
            seen.starts_with("get /_matrix/client/versions http/1."),
            "{seen}"
        );
        assert!(
            seen.contains("\r\nx-forwarded-for: 127.0.0.7\r\n"),
            "{seen}"
        );
        assert!(seen.contains("\r\nx-forwarded-proto: https\r\n"), "{seen}");
        assert!(!seen.contains("8.8.8.8"), "{seen}");
    }
    // a call, with pages in between
    let mut client = Client::new(wire::tls(address, &relay.tls_config(&[b"stun.turn"])));
    let relayed = client.allocate();
    let peer = Peer::new();
    assert_eq!(client.bind(0x4000, peer.address()), None);
    for _ in 0..3 {
        client.send_on(0x4000, b"hello");
        assert_eq!(peer.receive(), (b"hello".to_vec(), relayed));
        curl(&program, &relay, &[&page]);
    }
    assert_eq!(relay.metric("handovers_total", "done"), 6);
}
