//! Where nodes listen, as fields of stored forms: u8 4 or 6, the address, u16 port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use codec::{Error, Reader, Writer};

/// Addresses in one list at the most: a few suffice to find one that lives.
pub const ADDRESSES_MAX: usize = 8;

/// Writes a count and the addresses; of more than [`ADDRESSES_MAX`] the first ones.
pub fn write(to: &mut Writer, addresses: &[SocketAddr]) {
    let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
    to.u8(addresses.len() as u8);
    for address in addresses {
        match address.ip() {
            IpAddr::V4(ip) => to.u8(4).raw(&ip.octets()),
            IpAddr::V6(ip) => to.u8(6).raw(&ip.octets()),
        };
        to.u16(address.port());
    }
}

/// Reads what [`write()`] wrote.
pub fn read(from: &mut Reader<'_>) -> Result<Vec<SocketAddr>, Error> {
    let len = usize::from(from.u8("addresses")?);
    if len > ADDRESSES_MAX {
        return Err(Error::TooLong { what: "addresses", len, max: ADDRESSES_MAX });
    }
    (0..len)
        .map(|_| {
            let ip = match from.u8("address")? {
                4 => IpAddr::V4(Ipv4Addr::from(from.array::<4>("address")?)),
                6 => IpAddr::V6(Ipv6Addr::from(from.array::<16>("address")?)),
                value => return Err(Error::Value { what: "address", value: value.into() }),
            };
            Ok(SocketAddr::new(ip, from.u16("port")?))
        })
        .collect()
}
