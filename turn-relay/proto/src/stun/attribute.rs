//! Types and values of attributes, RFC 8489 §14 and RFC 8656 §18.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{MAGIC_COOKIE, TransactionId};

/// The number of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttributeType(pub u16);

macro_rules! attribute_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl AttributeType {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// How many types are known here.
            pub(super) const KNOWN: usize = [$($number),*].len();
            const NUMBERS: [u16; Self::KNOWN] = [$($number),*];
        }
    };
}

attribute_types! {
    /// RFC 8489 §14.1.
    MAPPED_ADDRESS = 0x0001;
    /// RFC 8489 §14.3.
    USERNAME = 0x0006;
    /// RFC 8489 §14.5.
    MESSAGE_INTEGRITY = 0x0008;
    /// RFC 8489 §14.8.
    ERROR_CODE = 0x0009;
    /// RFC 8489 §14.13.
    UNKNOWN_ATTRIBUTES = 0x000A;
    /// RFC 8656 §18.1.
    CHANNEL_NUMBER = 0x000C;
    /// RFC 8656 §18.2.
    LIFETIME = 0x000D;
    /// RFC 8656 §18.3.
    XOR_PEER_ADDRESS = 0x0012;
    /// RFC 8656 §18.4.
    DATA = 0x0013;
    /// RFC 8489 §14.9.
    REALM = 0x0014;
    /// RFC 8489 §14.10.
    NONCE = 0x0015;
    /// RFC 8656 §18.5.
    XOR_RELAYED_ADDRESS = 0x0016;
    /// RFC 8656 §18.6.
    REQUESTED_ADDRESS_FAMILY = 0x0017;
    /// RFC 8656 §18.7.
    EVEN_PORT = 0x0018;
    /// RFC 8656 §18.8.
    REQUESTED_TRANSPORT = 0x0019;
    /// RFC 8656 §18.9.
    DONT_FRAGMENT = 0x001A;
    /// RFC 8489 §14.6.
    MESSAGE_INTEGRITY_SHA256 = 0x001C;
    /// RFC 8489 §14.12.
    PASSWORD_ALGORITHM = 0x001D;
    /// RFC 8489 §14.4.
    USERHASH = 0x001E;
    /// RFC 8489 §14.2.
    XOR_MAPPED_ADDRESS = 0x0020;
    /// RFC 8656 §18.10.
    RESERVATION_TOKEN = 0x0022;
    /// RFC 6062 §6.2.1.
    CONNECTION_ID = 0x002A;
    /// RFC 8656 §18.11.
    ADDITIONAL_ADDRESS_FAMILY = 0x8000;
    /// RFC 8656 §18.12.
    ADDRESS_ERROR_CODE = 0x8001;
    /// RFC 8489 §14.11.
    PASSWORD_ALGORITHMS = 0x8002;
    /// RFC 8489 §14.16.
    ALTERNATE_DOMAIN = 0x8003;
    /// RFC 8656 §18.13.
    ICMP = 0x8004;
    /// RFC 8489 §14.14.
    SOFTWARE = 0x8022;
    /// RFC 8489 §14.15.
    ALTERNATE_SERVER = 0x8023;
    /// RFC 8489 §14.7.
    FINGERPRINT = 0x8028;
}

impl AttributeType {
    /// Whether a receiver that does not know the attribute has to refuse the message, RFC 8489 §14.
    #[must_use]
    pub const fn is_comprehension_required(self) -> bool {
        self.0 < 0x8000
    }

    /// The place of a known type in tables of [`Self::KNOWN`] entries.
    pub(super) fn index(self) -> Option<usize> {
        Self::NUMBERS.iter().position(|number| *number == self.0)
    }
}

/// An IP version as TURN writes it, RFC 8656 §18.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// 0x01.
    V4,
    /// 0x02.
    V6,
}

impl Family {
    /// The version of `address`. An IPv4-mapped IPv6 address is IPv6 here: whoever reads addresses from
    /// sockets makes them canonical first.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The number in REQUESTED-ADDRESS-FAMILY, ADDITIONAL-ADDRESS-FAMILY and in addresses.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    /// The version with that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V4),
            2 => Some(Self::V6),
            _ => None,
        }
    }
}

/// Reads the value of an XOR-MAPPED-ADDRESS, XOR-PEER-ADDRESS or XOR-RELAYED-ADDRESS, RFC 8489 §14.2.
///
/// `None` if the length or the family is not one of the two that there are.
#[must_use]
pub fn read_xor_address(value: &[u8], transaction_id: TransactionId) -> Option<SocketAddr> {
    let (&[_, family, port_high, port_low], address) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([port_high, port_low]) ^ PORT_MASK;
    let address = match Family::from_number(family)? {
        Family::V4 => {
            let bits = u32::from_be_bytes(address.try_into().ok()?);
            IpAddr::V4(Ipv4Addr::from_bits(bits ^ MAGIC_COOKIE))
        }
        Family::V6 => {
            let bits = u128::from_be_bytes(address.try_into().ok()?);
            IpAddr::V6(Ipv6Addr::from_bits(bits ^ v6_mask(transaction_id)))
        }
    };
    Some(SocketAddr::new(address, port))
}

/// Writes what [`read_xor_address`] reads into `value`; the number of bytes is 8 or 20.
pub fn write_xor_address(
    address: SocketAddr,
    transaction_id: TransactionId,
    value: &mut [u8; 20],
) -> usize {
    value[0] = 0;
    value[1] = Family::of(address.ip()).number();
    value[2..4].copy_from_slice(&(address.port() ^ PORT_MASK).to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            value[4..8].copy_from_slice(&(ip.to_bits() ^ MAGIC_COOKIE).to_be_bytes());
            8
        }
        IpAddr::V6(ip) => {
            value[4..20].copy_from_slice(&(ip.to_bits() ^ v6_mask(transaction_id)).to_be_bytes());
            20
        }
    }
}

/// The upper half of the magic cookie.
const PORT_MASK: u16 = 0x2112;

fn v6_mask(transaction_id: TransactionId) -> u128 {
    transaction_id
        .0
        .iter()
        .fold(u128::from(MAGIC_COOKIE), |mask, byte| {
            mask << 8 | u128::from(*byte)
        })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const ID: TransactionId = TransactionId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

    #[test]
    fn every_type_has_a_place_of_its_own() {
        let places: HashSet<_> = AttributeType::NUMBERS
            .iter()
            .filter_map(|number| AttributeType(*number).index())
            .collect();
        assert_eq!(places, (0..AttributeType::KNOWN).collect());
        assert_eq!(AttributeType(0x0024).index(), None);
    }

    #[test]
    fn the_upper_half_of_the_types_may_be_ignored() {
        assert!(AttributeType(0x7FFF).is_comprehension_required());
        assert!(!AttributeType(0x8000).is_comprehension_required());
    }

    #[test]
    fn families_have_the_numbers_of_stun() {
        for (family, number) in [(Family::V4, 1), (Family::V6, 2)] {
            assert_eq!(family.number(), number);
            assert_eq!(Family::from_number(number), Some(family));
        }
        assert!(
            (3..=255)
                .chain([0])
                .all(|number| Family::from_number(number).is_none())
        );
        assert_eq!(Family::of("::ffff:192.0.2.1".parse().unwrap()), Family::V6);
    }

    #[test]
    fn an_address_of_another_length_or_family_is_none() {
        for len in (0..24).filter(|len| *len != 8) {
            let mut value = vec![0; len];
            if len > 1 {
                value[1] = 1;
            }
            assert_eq!(read_xor_address(&value, ID), None, "IPv4 in {len} bytes");
        }
        for len in (0..24).filter(|len| *len != 20) {
            let mut value = vec![0; len];
            if len > 1 {
                value[1] = 2;
            }
            assert_eq!(read_xor_address(&value, ID), None, "IPv6 in {len} bytes");
        }
        for family in (3..=255).chain([0]) {
            assert_eq!(read_xor_address(&[0, family, 0, 0, 0, 0, 0, 0], ID), None);
        }
        // the first byte means nothing, RFC 8489 §14.1
        assert!(read_xor_address(&[9, 1, 0, 0, 0, 0, 0, 0], ID).is_some());
    }

    proptest! {
        #[test]
        fn addresses_are_read_as_they_were_written(
            ip in any::<IpAddr>(),
            port in any::<u16>(),
            id in any::<[u8; 12]>(),
        ) {
            let (address, id) = (SocketAddr::new(ip, port), TransactionId(id));
            let mut value = [0; 20];
            let len = write_xor_address(address, id, &mut value);
            prop_assert_eq!(read_xor_address(&value[..len], id), Some(address));
        }
    }
}
