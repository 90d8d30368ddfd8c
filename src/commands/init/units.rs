//! The systemd units of `config/systemd`, for where things are here.

use std::path::Path;

const PUSH: &str = include_str!("../../../config/systemd/nocturne-push.service");
const TURN: &str = include_str!("../../../config/systemd/nocturne-turn.service");

/// What only systemd 253 and newer know, with the comment that says so.
const NEW_TYPE: &str = "\
# The service says when it listens and when it has reloaded. systemd before 253 (Debian 12) does not know
# notify-reload; there write these two lines instead:
#   Type=notify
#   ExecReload=/bin/kill -HUP $MAINPID
Type=notify-reload
";

/// What all of them know.
const OLD_TYPE: &str = "\
# The service says when it listens.
Type=notify
ExecReload=/bin/kill -HUP $MAINPID
";

const NO_CAPABILITIES: &str = "AmbientCapabilities=\nCapabilityBoundingSet=\n";
const CAPABILITIES: &str =
    "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n";

/// Ports that only root may listen on, unless a capability says otherwise.
const PRIVILEGED: std::ops::Range<u16> = 1..1024;

/// The push gateway's unit.
pub(super) fn push(configuration: &Path) -> String {
    unit(PUSH, "/etc/nocturne/push-gateway.yaml", configuration)
}

/// The relay's unit, for a relay that listens on these ports.
pub(super) fn turn(configuration: &Path, mut ports: impl Iterator<Item = u16>) -> String {
    let unit = unit(TURN, "/etc/nocturne/turn-relay.yaml", configuration);
    if ports.any(|port| PRIVILEGED.contains(&port)) {
        unit.replace(NO_CAPABILITIES, CAPABILITIES)
    } else {
        unit
    }
}

fn unit(template: &str, usual: &str, configuration: &Path) -> String {
    let mut unit = template
        .replace(NEW_TYPE, OLD_TYPE)
        .replace(usual, &word(&configuration.display().to_string()));
    if ["/home", "/root", "/run/user"]
        .iter()
        .any(|home| configuration.starts_with(home))
    {
        unit = unit.replace("ProtectHome=yes\n", "ProtectHome=read-only\n");
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
    fn the_units_are_for_every_systemd_and_this_folder() {
        let push = push(Path::new("/srv/my files/push-gateway.yaml"));
        let line =
            "ExecStart=/usr/local/bin/nocturne push --config \"/srv/my files/push-gateway.yaml\"\n";
        assert!(push.contains(line), "{push}");
        let turn = turn(Path::new("/srv/100%/turn-relay.yaml"), [3478].into_iter());
        let line = "ExecStart=/usr/local/bin/nocturne turn --config /srv/100%%/turn-relay.yaml\n";
        assert!(turn.contains(line), "{turn}");
        for unit in [push, turn] {
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
        let path = Path::new("/etc/nocturne/turn-relay.yaml");
        let unit = turn(path, [3478, 443].into_iter());
        assert!(unit.contains(CAPABILITIES), "{unit}");
        // port 0 is whichever is free, and none of those is below
        assert!(turn(path, [0].into_iter()).contains(NO_CAPABILITIES));
    }

    #[test]
    fn a_configuration_at_home_can_be_read() {
        let unit = push(Path::new("/root/nocturne/push-gateway.yaml"));
        assert!(unit.contains("ProtectHome=read-only"), "{unit}");
    }
}
