//! A grant: a claim with the keys that make what it gives readable, as one line of text.

use std::fmt;
use std::net::SocketAddr;

use base::Wall;
use codec::{Reader, Versioned, Writer};
use crypt::{FolderKey, VolumeRoot};
use zeroize::Zeroizing;

use crate::address::{self, ADDRESSES_MAX};
use crate::caveat::{Caveat, Verbs};
use crate::chain::{Claim, Head};
use crate::ticket::Ticket;
use crate::{Anchor, Error};

const TEXT_HEAD: &str = "abide-grant1";
const CHECK_BYTES: usize = 5;
/// Characters at the most: all caveats, steps and addresses at their longest.
const TEXT_MAX: usize = 64 * 1024;
const TICKET_BYTES_MAX: usize = 256;

/// The keys of one folder or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subtree {
    /// Opens it.
    pub key: FolderKey,
    /// Tells the owner which it is, in what is written with it.
    pub anchor: Anchor,
}

/// What its holder can do. Whoever has the text has the grant.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// What directors are shown.
    pub claim: Claim,
    /// Of an end-to-end volume: the keys.
    pub subtree: Option<Subtree>,
    /// Where to begin.
    pub addresses: Vec<SocketAddr>,
    /// For reading with no director alive.
    pub ticket: Option<Ticket>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("claim", &self.claim).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Grant {
    /// A grant of `path` (true names; a folder if it ends in `/` or is empty) in an end-to-end volume. `salt` is random.
    pub fn sealed(root: &VolumeRoot, head: Head, path: &str, salt: [u8; 16]) -> Result<Self, Error> {
        let subtree = Subtree { key: root.top().at(path), anchor: Anchor::new(root, path, salt) };
        Self::issue(root, head, root.top().seal_path(path)?, Some(subtree))
    }

    /// A grant of `path` in a volume whose keys the cluster has.
    pub fn plain(root: &VolumeRoot, head: Head, path: &str) -> Result<Self, Error> {
        Self::issue(root, head, path.to_owned(), None)
    }

    fn issue(root: &VolumeRoot, head: Head, prefix: String, subtree: Option<Subtree>) -> Result<Self, Error> {
        let claim = Claim::issue(&root.grant_key(), head).narrow(Caveat::Prefix(prefix))?;
        Ok(Self { claim, subtree, addresses: Vec::new(), ticket: None })
    }

    /// The same with addresses of nodes, of which the first few stay.
    pub fn with_addresses(mut self, addresses: &[SocketAddr]) -> Self {
        self.addresses = addresses[..addresses.len().min(ADDRESSES_MAX)].to_vec();
        self
    }

    /// The same with a ticket, or without one.
    pub fn with_ticket(mut self, ticket: Option<Ticket>) -> Self {
        self.ticket = ticket;
        self
    }

    /// For these verbs only.
    pub fn only(self, verbs: Verbs) -> Result<Self, Error> {
        self.narrow(Caveat::Verbs(verbs))
    }

    /// Until then at the latest.
    pub fn until(self, at: Wall) -> Result<Self, Error> {
        self.narrow(Caveat::Until(at))
    }

    /// Not before then.
    pub fn not_before(self, at: Wall) -> Result<Self, Error> {
        self.narrow(Caveat::NotBefore(at))
    }

    /// As long as this label isn't revoked.
    pub fn labelled(self, label: [u8; 16]) -> Result<Self, Error> {
        self.narrow(Caveat::Label(label))
    }

    fn narrow(mut self, caveat: Caveat) -> Result<Self, Error> {
        self.claim = self.claim.narrow(caveat)?;
        Ok(self)
    }

    /// For what is at `path` below it only, by true names; keys for more than that are left out. `salt` is random.
    pub fn narrow_to(self, path: &str, salt: [u8; 16]) -> Result<Self, Error> {
        let prefix = self.claim.prefix().to_owned();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            return Err(Error::NotAFolder);
        }
        let (below, subtree) = match &self.subtree {
            None => (path.to_owned(), None),
            Some(Subtree { key, anchor }) => {
                let subtree = Subtree { key: key.at(path), anchor: anchor.below(key, path, salt)? };
                (key.seal_path(path)?, Some(subtree))
            }
        };
        let mut narrowed = self.narrow(Caveat::Prefix(prefix + &below))?;
        narrowed.subtree = subtree;
        Ok(narrowed)
    }

    /// The line of text: secret.
    pub fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.encode());
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        Zeroizing::new(format!("{TEXT_HEAD}{}", base::base64::encode(&bytes)))
    }

    /// The grant of a line of text; surrounding space doesn't matter.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let rest = text.strip_prefix(TEXT_HEAD).ok_or(Error::NoGrant)?;
        let mistyped = || Error::Mistyped { len: text.chars().count() };
        if text.len() > TEXT_MAX {
            return Err(mistyped());
        }
        let bytes = Zeroizing::new(base::base64::decode(rest).ok_or_else(mistyped)?);
        let (body, check) = bytes.split_at(bytes.len().saturating_sub(CHECK_BYTES));
        if checksum(body) != check {
            return Err(mistyped());
        }
        Ok(Self::decode(body)?)
    }
}

fn checksum(body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::derive_key("abide 2026 grant check v1", body)[..CHECK_BYTES]);
    check
}

impl Versioned for Grant {
    const NAME: &'static str = "grant";
    const MARK: [u8; 4] = *b"AbGt";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.claim.encode());
        to.option(self.subtree.as_ref(), |to, subtree| {
            to.raw(&subtree.key.to_bytes()[..]);
            subtree.anchor.write(to);
        });
        address::write(to, &self.addresses);
        to.option(self.ticket.as_ref(), |to, ticket| {
            to.bytes(&ticket.encode());
        });
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let claim = Claim::decode_from(from)?;
        let subtree = from.option("keys", |from| {
            Ok(Subtree { key: FolderKey::new(from.array("key")?), anchor: Anchor::read(from)? })
        })?;
        let addresses = address::read(from)?;
        let ticket = from.option("ticket", |from| Ticket::decode(from.bytes("ticket", TICKET_BYTES_MAX)?))?;
        Ok(Self { claim, subtree, addresses, ticket })
    }
}
