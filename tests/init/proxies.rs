//! nginx and Caddy with what SETUP.md has for them: they take it, and each path ends where it should.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use stand_ins::homeserver::{Answer, Homeserver as Client};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    folder::{Folder, Setup},
    process::{Process, free_address},
    programs::{program, run},
};

/// Where the snippets expect the two services.
const PUSH: &str = "127.0.0.1:5000";
const CREDENTIALS: &str = "127.0.0.1:3480";

/// What becomes of a path.
const PATHS: [(&str, &str); 12] = [
    ("/_matrix/push/v1/notify", "push"),
    ("/_nocturne/v1/keys", "push"),
    ("/_matrix/client/v3/voip/turnServer", "credentials"),
    ("/_matrix/client/r0/voip/turnServer", "credentials"),
    ("/_matrix/client/v1/voip/turnServer", "credentials"),
    ("/_matrix/client/unstable/voip/turnServer", "credentials"),
    ("/_matrix/client/api/v1/voip/turnServer", "credentials"),
    ("/turn/credentials?service=turn", "credentials"),
    ("/_matrix/client/v3/sync", "homeserver"),
    ("/_matrix/client/v3/voip/turnServer/x", "homeserver"),
    ("/_matrix/key/v2/server", "homeserver"),
    ("/", "homeserver"),
];

#[tokio::test]
async fn nginx_takes_its_snippet_and_sends_each_path_where_it_belongs() {
    let Some(nginx) = program("nginx", "nginx-light") else {
        return;
    };
    let setup = Folder::made().setup();
    let [push, credentials, homeserver] = upstreams().await;
    // as others have it before: neither what comes first nor `^~` is in the way
    for server in [
        format!("location / {{ proxy_pass http://{homeserver}; }}\nSNIPPET"),
        format!(
            "location ~ ^(/_matrix|/_synapse/client) {{ proxy_pass http://{homeserver}; }}\nSNIPPET\n\
             location / {{ proxy_pass http://{homeserver}; }}"
        ),
        format!(
            "location ^~ /_matrix {{ proxy_pass http://{homeserver}; }}\n\
             location / {{ proxy_pass http://{homeserver}; }}\nSNIPPET"
        ),
    ] {
        let snippet = with_ports(&both(&setup, "nginx"), push, credentials);
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let (_process, address) =
            start_nginx(&nginx, folder.path(), &server.replace("SNIPPET", &snippet)).await;
        for (path, expected) in PATHS {
            assert_eq!(
                get(address, path).await.text(),
                expected,
                "{path}\n{server}"
            );
        }
    }
}

#[test]
fn nginx_sees_a_mistake() {
    let Some(nginx) = program("nginx", "nginx-light") else {
        return;
    };
    let snippet = both(&Folder::made().setup(), "nginx");
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let test = |server: &str| {
        write_nginx(folder.path(), &free_address().to_string(), server);
        run(Command::new(&nginx)
            .arg("-t")
            .args(nginx_arguments(folder.path())))
    };
    let (succeeded, said) = test(&snippet);
    assert!(succeeded, "{said}");
    assert!(!test(&snippet.replace("proxy_pass", "proxy_past")).0);
}

#[tokio::test]
async fn caddy_takes_its_snippet_and_sends_each_path_where_it_belongs() {
    let Some(caddy) = program("caddy", "caddy") else {
        return;
    };
    let setup = Folder::made().setup();
    let [push, credentials, homeserver] = upstreams().await;
    for site in [
        format!("reverse_proxy {homeserver}\nSNIPPET"),
        format!("SNIPPET\nhandle {{\n\treverse_proxy {homeserver}\n}}"),
        format!(
            "reverse_proxy /_matrix/* {homeserver}\nreverse_proxy /_synapse/client/* {homeserver}\nSNIPPET\nreverse_proxy {homeserver}"
        ),
    ] {
        let snippet = with_ports(&both(&setup, "caddyfile"), push, credentials);
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let address = free_address();
        let file = write_caddy(
            folder.path(),
            &format!("http://{address}"),
            &site.replace("SNIPPET", &snippet),
        );
        let mut command = caddy_command(&caddy, folder.path(), "run", &file);
        let mut process = Process::start("caddy", &mut command, folder.path());
        process.wait_until_ready(address, "/").await;
        for (path, expected) in PATHS {
            assert_eq!(get(address, path).await.text(), expected, "{path}\n{site}");
        }
    }
}

#[test]
fn caddy_validates_all_that_is_for_it() {
    let Some(caddy) = program("caddy", "caddy") else {
        return;
    };
    let setup = Folder::made().setup();
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let validate = |file: &Path| run(&mut caddy_command(&caddy, folder.path(), "validate", file));
    let snippet = both(&setup, "caddyfile");
    let file = write_caddy(folder.path(), "matrix.example.org", &snippet);
    let (succeeded, said) = validate(&file);
    assert!(succeeded, "{said}");
    let file = write_caddy(
        folder.path(),
        "matrix.example.org",
        &snippet.replace("reverse_proxy", "reverse_poxy"),
    );
    assert!(!validate(&file).0);
    // the site for the certificate is whole
    let certificate = setup
        .all("caddyfile")
        .into_iter()
        .find(|block| block.starts_with("turn.example.org {"))
        .expect("there is one");
    let file = folder.path().join("Caddyfile");
    fs::write(&file, format!("{{\n\tadmin off\n}}\n{certificate}")).expect("written");
    let (succeeded, said) = validate(&file);
    assert!(succeeded, "{said}");
}

/// What goes into the homeserver's block, and what does so only if somebody wants it.
fn both(setup: &Setup, language: &str) -> String {
    let heading = if language == "nginx" {
        "With nginx"
    } else {
        "With Caddy"
    };
    // Caddy is mentioned for the certificate, too
    let mut blocks = setup.blocks(heading, language);
    blocks.retain(|block| block.contains("Nocturne"));
    assert_eq!(blocks.len(), 1);
    blocks.push(setup.block("For other services that ask", language));
    blocks.concat()
}

pub(crate) fn with_ports(snippet: &str, push: SocketAddr, credentials: SocketAddr) -> String {
    assert!(
        snippet.contains(PUSH) && snippet.contains(CREDENTIALS),
        "{snippet}"
    );
    snippet
        .replace(PUSH, &push.to_string())
        .replace(CREDENTIALS, &credentials.to_string())
}

pub(crate) async fn start_nginx(
    nginx: &Path,
    folder: &Path,
    server: &str,
) -> (Process, SocketAddr) {
    let address = free_address();
    write_nginx(folder, &address.to_string(), server);
    let (succeeded, said) = run(Command::new(nginx).arg("-t").args(nginx_arguments(folder)));
    assert!(succeeded, "{said}\n{server}");
    let mut command = Command::new(nginx);
    command.env_clear().args(nginx_arguments(folder));
    let mut process = Process::start("nginx", &mut command, folder);
    process
        .wait_until_ready(address, "/_matrix/client/versions")
        .await;
    (process, address)
}

fn nginx_arguments(folder: &Path) -> [String; 6] {
    let folder = folder.to_str().expect("UTF-8").to_owned();
    let file = "nginx.conf".to_owned();
    [
        "-p".to_owned(),
        folder,
        "-c".to_owned(),
        file,
        "-e".to_owned(),
        "stderr".to_owned(),
    ]
}

fn write_nginx(folder: &Path, listen: &str, server: &str) {
    let text = format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {listen};
{server}
    }}
}}
"
    );
    fs::write(folder.join("nginx.conf"), text).expect("the folder can be written to");
}

fn write_caddy(folder: &Path, site: &str, text: &str) -> std::path::PathBuf {
    let file = folder.join("Caddyfile");
    let text = format!("{{\n\tadmin off\n}}\n{site} {{\n{text}\n}}\n");
    fs::write(&file, text).expect("the folder can be written to");
    file
}

fn caddy_command(caddy: &Path, folder: &Path, subcommand: &str, file: &Path) -> Command {
    let mut command = Command::new(caddy);
    command
        .env_clear()
        .env("HOME", folder)
        .args([subcommand, "--adapter", "caddyfile", "--config"])
        .arg(file);
    command
}

/// Three servers that answer with their names.
async fn upstreams() -> [SocketAddr; 3] {
    let mut addresses = Vec::new();
    for name in ["push", "credentials", "homeserver"] {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        addresses.push(listener.local_addr().expect("it is bound"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}",
                        name.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
    }
    addresses.try_into().expect("three of them")
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    get_with_token(address, path, None).await
}

pub(crate) async fn get_with_token(address: SocketAddr, path: &str, token: Option<&str>) -> Answer {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token is ASCII");
        headers.insert(http::header::AUTHORIZATION, bearer);
    }
    Client::new(address)
        .request(Method::GET, path, headers, Bytes::new())
        .await
        .unwrap_or_else(|error| panic!("{address} does not answer {path}: {error}"))
}
