//! Join tickets: one use, expiring, a line of text.
//!
//! The text is `abide-join-` and base 32 (RFC 4648's alphabet in lower case, no padding) of the
//! ticket's bytes and a checksum. The secret in it is derived from the root key and the claim, so
//! whoever holds the root key can check a ticket without having kept it; that it was used is the
//! one thing the cluster must remember, until it expires.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base::{ClusterId, Kind, Kinded, Wall};
use codec::{Reader, Writer};
use crypt::{PublicKey, RootKey};

/// Addresses in one ticket: each makes it longer, a few are enough to find one that lives.
pub const ADDRESSES_MAX: usize = 8;
const HEAD: &str = "abide-join-";
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 5;
/// Characters of a ticket at the most: eight IPv6 addresses are about 420.
const TEXT_MAX: usize = 1024;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Names a ticket; random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(pub [u8; 8]);

/// What is wrong with a ticket, and what would work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It doesn't begin as tickets do.
    #[error("this is no join ticket: one begins with {HEAD:?}; get one from `abide invite` on a node of the cluster")]
    NoTicket,
    /// A character that no ticket has.
    #[error("the ticket is mistyped: character {position}, {found:?}, is in no ticket; copy it again, whole")]
    Character {
        /// Counted from 1.
        position: usize,
        /// The character.
        found: char,
    },
    /// Its checksum is wrong.
    #[error("the ticket is mistyped or not whole ({len} characters): its checksum is wrong; copy it again, whole")]
    Mistyped {
        /// Its characters.
        len: usize,
    },
    /// Of a newer release.
    #[error("the ticket is of a newer release (its version is {version}): update abide on this machine")]
    Newer {
        /// Its version.
        version: u8,
    },
    /// Its time is over.
    #[error(
        "the ticket expired at {}, and the clock of the node that was asked says {}: get a new one from `abide invite`, \
         or set that clock right",
        .at.rfc3339(), .now.rfc3339()
    )]
    Expired {
        /// When.
        at: Wall,
        /// What time it is for who says so: clocks may be years off.
        now: Wall,
    },
    /// Somebody joined with it.
    #[error("the ticket was used already, each lets one machine join: get a new one from `abide invite`")]
    Used,
    /// It isn't this cluster's.
    #[error("the ticket is of another cluster ({cluster}): get one from `abide invite` on a node of this one")]
    OtherCluster {
        /// The ticket's cluster.
        cluster: ClusterId,
    },
    /// Its secret wasn't made with the cluster's root key.
    #[error("the ticket wasn't made by this cluster: get a new one from `abide invite`")]
    Forged,
}

impl Kinded for TicketError {
    fn kind(&self) -> Kind {
        match self {
            TicketError::NoTicket
            | TicketError::Character { .. }
            | TicketError::Mistyped { .. }
            | TicketError::Newer { .. } => Kind::Invalid,
            TicketError::Expired { .. }
            | TicketError::Used
            | TicketError::OtherCluster { .. }
            | TicketError::Forged => Kind::Denied,
        }
    }
}

/// What a ticket says of itself; not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The cluster to join.
    pub cluster: ClusterId,
    /// Which ticket.
    pub id: TicketId,
    /// Until when, by the cluster's clocks; whole seconds.
    pub expires: Wall,
}

impl Claim {
    /// Bytes of [`Claim::to_bytes`].
    pub const SIZE: usize = 32;

    /// Cluster, id, expiry in seconds.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.cluster.0);
        bytes[16..24].copy_from_slice(&self.id.0);
        bytes[24..].copy_from_slice(&self.expires.secs().to_le_bytes());
        bytes
    }

    /// Reads [`Claim::to_bytes`].
    pub fn decode(from: &mut Reader<'_>) -> Result<Claim, codec::Error> {
        let cluster = ClusterId(from.array("cluster")?);
        let id = TicketId(from.array("ticket id")?);
        let secs = from.u64("expiry")?;
        let expires = secs.checked_mul(1000).ok_or(codec::Error::Value { what: "expiry", value: secs })?;
        Ok(Claim { cluster, id, expires: Wall(expires) })
    }

    /// Succeeds if the claim holds in `cluster` at `now`. `used` says whether somebody joined with it.
    /// Ask this only of a claim whose secret was shown ([`Claim::secret`]).
    pub fn check(&self, cluster: ClusterId, now: Wall, used: bool) -> Result<(), TicketError> {
        if self.cluster != cluster {
            return Err(TicketError::OtherCluster { cluster: self.cluster });
        }
        // Used before expired: it is the more useful thing to hear.
        if used {
            return Err(TicketError::Used);
        }
        if now >= self.expires {
            return Err(TicketError::Expired { at: self.expires, now });
        }
        Ok(())
    }

    /// The secret that belongs to the claim in the cluster of `root`.
    pub fn secret(&self, root: &RootKey) -> [u8; 16] {
        root.ticket_secret(&self.to_bytes())
    }
}

/// A ticket as its holder has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// What it says of itself.
    pub claim: Claim,
    /// Where nodes of the cluster listen.
    pub addresses: Vec<SocketAddr>,
    /// Tells the cluster's root key from others; see [`Ticket::root_hash_of`].
    pub root_hash: [u8; 16],
    secret: [u8; 16],
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("claim", &self.claim).field("addresses", &self.addresses).finish()
    }
}

impl Ticket {
    /// A new ticket; `id` is random. Of more than [`ADDRESSES_MAX`] addresses the first ones stay.
    pub fn issue(root: &RootKey, cluster: ClusterId, id: TicketId, expires: Wall, addresses: &[SocketAddr]) -> Ticket {
        let claim = Claim { cluster, id, expires: Wall(expires.secs() * 1000) };
        let addresses = addresses[..addresses.len().min(ADDRESSES_MAX)].to_vec();
        let root_hash = Ticket::root_hash_of(&root.signing_key().public());
        Ticket { claim, addresses, root_hash, secret: claim.secret(root) }
    }

    /// What tickets hold of the root's public key: 16 bytes of BLAKE3.
    pub fn root_hash_of(root: &PublicKey) -> [u8; 16] {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::derive_key("abide 2026 root hash v1", &root.0)[..16]);
        hash
    }

    /// The secret that only the cluster and the ticket's holders know.
    pub fn secret(&self) -> &[u8; 16] {
        &self.secret
    }

    /// The line of text.
    pub fn text(&self) -> String {
        let mut to = Writer::new();
        to.u8(VERSION).raw(&self.claim.to_bytes()).raw(&self.root_hash).raw(&self.secret);
        to.u8(self.addresses.len() as u8);
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => to.u8(4).raw(&ip.octets()),
                IpAddr::V6(ip) => to.u8(6).raw(&ip.octets()),
            };
            to.u16(address.port());
        }
        let mut bytes = to.finish();
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        format!("{HEAD}{}", base32(&bytes))
    }

    /// The ticket of a line of text; case and surrounding space don't matter.
    pub fn parse(text: &str) -> Result<Ticket, TicketError> {
        let text = text.trim();
        let len = text.chars().count();
        let head = text.get(..HEAD.len()).ok_or(TicketError::NoTicket)?;
        if !head.eq_ignore_ascii_case(HEAD) {
            return Err(TicketError::NoTicket);
        }
        if len > TEXT_MAX {
            return Err(TicketError::Mistyped { len });
        }
        let bytes = unbase32(&text[HEAD.len()..], HEAD.len())?.ok_or(TicketError::Mistyped { len })?;
        let (body, check) = bytes.split_at(bytes.len().saturating_sub(CHECK_BYTES));
        if checksum(body) != check {
            return Err(TicketError::Mistyped { len });
        }
        match body.first() {
            Some(&version) if version > VERSION => Err(TicketError::Newer { version }),
            _ => Ticket::decode(body).map_err(|_| TicketError::Mistyped { len }),
        }
    }

    fn decode(body: &[u8]) -> Result<Ticket, codec::Error> {
        let mut from = Reader::new(body);
        from.u8("version")?;
        let claim = Claim::decode(&mut from)?;
        let root_hash = from.array("root hash")?;
        let secret = from.array("secret")?;
        let len = from.u8("addresses")? as usize;
        if len > ADDRESSES_MAX {
            return Err(codec::Error::TooLong { what: "addresses", len, max: ADDRESSES_MAX });
        }
        let mut addresses = Vec::with_capacity(len);
        for _ in 0..len {
            let ip = match from.u8("address")? {
                4 => IpAddr::V4(Ipv4Addr::from(from.array::<4>("address")?)),
                6 => IpAddr::V6(Ipv6Addr::from(from.array::<16>("address")?)),
                value => return Err(codec::Error::Value { what: "address", value: value.into() }),
            };
            addresses.push(SocketAddr::new(ip, from.u16("port")?));
        }
        from.end("ticket")?;
        Ok(Ticket { claim, addresses, root_hash, secret })
    }
}

fn checksum(body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::derive_key("abide 2026 ticket check v1", body)[..CHECK_BYTES]);
    check
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    for part in bytes.chunks(5) {
        let mut word = [0; 8];
        word[3..3 + part.len()].copy_from_slice(part);
        let word = u64::from_be_bytes(word);
        for digit in 0..(part.len() * 8).div_ceil(5) {
            text.push(ALPHABET[(word >> (35 - 5 * digit) & 31) as usize] as char);
        }
    }
    text
}

/// `None` if no bytes have this text. `skipped` characters stood before it.
fn unbase32(text: &str, skipped: usize) -> Result<Option<Vec<u8>>, TicketError> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut word, mut bits) = (0u32, 0);
    for (at, found) in text.chars().enumerate() {
        let lower = found.to_ascii_lowercase();
        let Some(digit) = ALPHABET.iter().position(|letter| *letter as char == lower) else {
            return Err(TicketError::Character { position: skipped + at + 1, found });
        };
        word = word << 5 | digit as u32;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    // Bits beyond the last byte are zero, else two texts would be one ticket.
    Ok((bits < 5 && word == 0).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> (RootKey, Ticket) {
        let root = RootKey::new([9; 32]);
        let addresses = ["10.1.2.3:7400".parse().unwrap(), "[2001:db8::1]:7400".parse().unwrap()];
        let expires = Wall(1_795_230_600_123);
        let ticket = Ticket::issue(&root, ClusterId([1; 16]), TicketId([2; 8]), expires, &addresses);
        (root, ticket)
    }

    #[test]
    fn a_ticket_is_read_back_from_its_text() {
        let (_, ticket) = ticket();
        let text = ticket.text();
        assert_eq!(text, include_str!("../tests/ticket.txt").trim(), "version 1 never changes");
        assert_eq!(Ticket::parse(&format!(" {}\n", text.to_uppercase())), Ok(ticket));
    }

    #[test]
    fn every_mistyped_character_is_noticed() {
        let text = ticket().1.text();
        for at in HEAD.len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(Ticket::parse(&wrong), Err(TicketError::Mistyped { len: text.len() }), "{at}");
            assert!(Ticket::parse(&text[..at]).is_err(), "cut at {at}");
        }
        let wrong = text.replacen('a', "1", 3);
        assert!(matches!(Ticket::parse(&wrong), Err(TicketError::NoTicket)));
        let wrong = format!("{}!", &text[..40]);
        assert_eq!(Ticket::parse(&wrong), Err(TicketError::Character { position: 41, found: '!' }));
        assert_eq!(Ticket::parse(""), Err(TicketError::NoTicket));
        assert_eq!(Ticket::parse("äöüäöüäöüäöü"), Err(TicketError::NoTicket));
    }

    #[test]
    fn what_is_wrong_with_a_claim_is_named() {
        let (root, ticket) = ticket();
        let claim = ticket.claim;
        let (before, after) = (Wall(claim.expires.0 - 1), claim.expires);
        assert_eq!(claim.check(ClusterId([1; 16]), before, false), Ok(()));
        assert_eq!(
            claim.check(ClusterId([1; 16]), after, false),
            Err(TicketError::Expired { at: claim.expires, now: after })
        );
        assert_eq!(claim.check(ClusterId([1; 16]), after, true), Err(TicketError::Used));
        let other = TicketError::OtherCluster { cluster: ClusterId([1; 16]) };
        assert_eq!(claim.check(ClusterId([3; 16]), before, false), Err(other));
        assert_eq!(claim.secret(&root), *ticket.secret());
        let longer = Claim { expires: Wall(claim.expires.0 + 1000), ..claim };
        assert_ne!(longer.secret(&root), *ticket.secret(), "nobody can make a ticket last longer");
        assert_ne!(claim.secret(&RootKey::new([8; 32])), *ticket.secret());
    }
}
