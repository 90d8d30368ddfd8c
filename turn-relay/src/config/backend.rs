//! `listen.https_backend`: who gets HTTP that comes over TLS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use shared::yaml::{Section, Value};

use super::{Listen, network::clash};
use crate::io::backend::{Backend, BackendAddress};

/// A Unix socket's path has no space for more, on any system.
const LONGEST_PATH: usize = 103;

/// Reads both keys of the section `listen`.
pub(super) fn read(section: &Section<'_>) -> Option<Backend> {
    let proxy_protocol = section.get("https_backend_proxy_protocol");
    let value = section.get("https_backend");
    if let (None, Some(value)) = (&value, &proxy_protocol)
        && value.boolean() == Some(true)
    {
        value.warning("has no effect without `https_backend`");
    }
    Some(Backend {
        address: address(&value?)?,
        proxy_protocol: proxy_protocol
            .and_then(|value| value.boolean())
            .unwrap_or(false),
    })
}

fn address(value: &Value<'_>) -> Option<BackendAddress> {
    let text = value.filled_text()?;
    if let Some(path) = text.strip_prefix("unix:") {
        if Path::new(path).is_absolute() && path.len() <= LONGEST_PATH {
            return Some(BackendAddress::Unix(PathBuf::from(path)));
        }
    } else if let Ok(address) = text.parse::<SocketAddr>()
        && address.port() != 0
        && !address.ip().is_unspecified()
        && !address.ip().is_multicast()
    {
        if !address.ip().to_canonical().is_loopback() {
            value.warning(format_args!(
                "what clients have sent encrypted goes to {address} in clear (let the backend listen on 127.0.0.1 or \
                 on a Unix socket, unless nobody else is on the way)"
            ));
        }
        return Some(BackendAddress::Tcp(address));
    }
    value.unexpected(format_args!(
        "where a web server listens in clear: an IP address with a port (\"127.0.0.1:8080\"), or a Unix socket by its \
         whole path of at most {LONGEST_PATH} bytes (\"unix:/run/nginx/turn.sock\")"
    ));
    None
}

/// Whether the backend can be where it is.
pub(super) fn check(section: &Section<'_>, listen: &Listen, http_listen: &[SocketAddr]) {
    let (Some(value), Some(backend)) = (section.get("https_backend"), &listen.https_backend) else {
        return;
    };
    if listen.tls.is_empty() {
        value.warning("has no effect without `listen.tls`: HTTP is taken from TLS connections");
    }
    let BackendAddress::Tcp(address) = backend.address else {
        return;
    };
    let own = [("listen.tcp", &listen.tcp), ("listen.tls", &listen.tls)];
    for (key, others) in own {
        if others.iter().any(|other| clash(address, *other)) {
            value.error(format_args!(
                "is where this relay itself listens (`{key}`), which takes no HTTP in clear (name the address of a web \
                 server)"
            ));
        }
    }
    if http_listen.iter().any(|other| clash(address, *other)) {
        value.error(
            "is this relay's own `http.listen`: everybody would see its metrics, and could claim any address to be \
             theirs (put a reverse proxy between, and let it pass on the credential routes alone)",
        );
    }
}
