//! Which addresses a connection to an endpoint that a stranger chose may go to.

use std::net::IpAddr;

use ipnet::IpNet;

/// Allows public addresses, and those that the configuration names.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// Allowed although not public (`outbound.allow_private`).
    pub allow: Vec<IpNet>,
    /// Denied although public (`outbound.deny`); wins over `allow`.
    pub deny: Vec<IpNet>,
}

impl AddressPolicy {
    /// Whether a connection may be made to `address`.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let _ = address;
        todo!("helper")
    }

    /// Whether every address is permitted, so that there is nothing to check.
    #[must_use]
    pub fn permits_all(&self) -> bool {
        todo!("helper")
    }
}
