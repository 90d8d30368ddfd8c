//! The systemd unit of `config/systemd` for both services, for where things are here.

use std::path::Path;

const TEMPLATE: &str = include_str!("../../../config/systemd/nocturne.service");

/// What only systemd 253 and newer know, with the comment that says so.
const NEW_TYPE: &str = "\
# The service says when both of its parts listen, and when they have reloaded. systemd before 253 (Debian 12)
# does not know notify-reload; there write these two lines instead:
#   Type=notify
#   ExecReload=/bin/kill -HUP $MAINPID
Type=notify-reload
";

/// What all of them know.
const OLD_TYPE: &str = "\
# The service says when both of its parts listen.
Type=notify
ExecReload=/bin/kill -HUP $MAINPID
";

const NO_CAPABILITIES: &str = "AmbientCapabilities=\nCapabilityBoundingSet=\n";
const CAPABILITIES: &str =
    "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n";

/// Ports that only root may listen on, unless a capability says otherwise.
const PRIVILEGED: std::ops::Range<u16> = 1..1024;

/// The unit for the configurations in this folder, and a relay that listens on these ports.
pub(super) fn unit(folder: &Path, mut ports: impl Iterator<Item = u16>) -> String {
    let mut unit = TEMPLATE
        .replace(NEW_TYPE, OLD_TYPE)
        .replace("/etc/nocturne", &word(&folder.display().to_string()));
    if ["/home", "/root", "/run/user"]
        .iter()
        .any(|home| folder.starts_with(home))
    {
        unit = unit.replace("ProtectHome=yes\n", "ProtectHome=read-only\n");
    }
    if ports.any(|port| PRIVILEGED.contains(&port)) {
        unit = unit.replace(NO_CAPABILITIES, CAPABILITIES);
    }
    unit
}

/// A word of a command line as systemd reads it.
fn word(text: &str) -> String {
    let text = text
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    if text.contains([' ', '\'', '"', ';']) {
        format!("\"{text}\"")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_for_every_systemd_and_this_folder() {
        for (folder, word) in [
            ("/srv/my files", "\"/srv/my files\""),
            ("/srv/100%", "/srv/100%%"),
        ] {
            let unit = unit(Path::new(folder), [3478].into_iter());
            let line = format!("ExecStart=/usr/local/bin/nocturne run --config-dir {word}\n");
            assert!(unit.contains(&line), "{unit}");
            assert!(!unit.contains("notify-reload"), "{unit}");
            assert!(
                unit.contains("\nType=notify\nExecReload=/bin/kill -HUP $MAINPID\n"),
                "{unit}"
            );
            assert!(unit.contains(NO_CAPABILITIES), "{unit}");
            assert!(unit.contains("ProtectHome=yes"), "{unit}");
        }
    }

    #[test]
    fn ports_below_1024_take_a_capability() {
        let path = Path::new("/etc/nocturne");
        let with_tls = unit(path, [3478, 443].into_iter());
        assert!(with_tls.contains(CAPABILITIES), "{with_tls}");
        // port 0 is whichever is free, and none of those is below
        assert!(unit(path, [0].into_iter()).contains(NO_CAPABILITIES));
    }

    #[test]
    fn a_configuration_at_home_can_be_read() {
        let unit = unit(Path::new("/root/nocturne"), [3478].into_iter());
        assert!(unit.contains("ProtectHome=read-only"), "{unit}");
    }
}
