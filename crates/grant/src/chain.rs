//! The chain of caveats: what directors see of a grant, and check.
//!
//! Tag 0 is keyed BLAKE3 of the head under the volume's grant key; each tag after it that of the next
//! caveat under the tag before; the last one goes along (Birgisson et al., "Macaroons: Cookies with
//! contextual caveats", 2014, with BLAKE3 as MAC). So anybody can add a caveat, and nobody can take one away.

use std::collections::BTreeSet;

use base::{VolumeId, Wall};
use codec::{Error as CodecError, Reader, Versioned, Writer};
use crypt::PublicKey;

use crate::caveat::{CAVEATS_MAX, Caveat, Verb};
use crate::{Error, Refusal};

/// What a grant begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The volume's number in its cluster: part of what contents are sealed with.
    pub number: VolumeId,
    /// The volume's public key.
    pub volume: PublicKey,
    /// The volume's epoch when it was made.
    pub epoch: u64,
    /// Names the grant; random.
    pub id: [u8; 16],
}

impl Head {
    fn write(&self, to: &mut Writer) {
        to.u32(self.number.0).raw(&self.volume.0).u64(self.epoch).raw(&self.id);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            number: VolumeId(from.u32("volume")?),
            volume: PublicKey(from.array("volume's key")?),
            epoch: from.u64("epoch")?,
            id: from.array("grant id")?,
        })
    }

    fn tag(&self, key: &[u8; 32]) -> [u8; 32] {
        let mut to = Writer::new();
        to.raw(b"abide 2026 grant v1");
        self.write(&mut to);
        *blake3::keyed_hash(key, &to.finish()).as_bytes()
    }
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The volume's public key.
    pub volume: PublicKey,
    /// What.
    pub verb: Verb,
    /// With which key; of a listing the prefix that is listed. As directors see paths.
    pub path: &'a str,
}

/// What holds where a grant is checked.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What time it is.
    pub now: Wall,
    /// The volume's epoch: grants of earlier ones are revoked.
    pub epoch: u64,
    /// Labels, and ids of grants, that are revoked one by one.
    pub revoked: &'a BTreeSet<[u8; 16]>,
}

/// The part of a grant that is shown to directors: no key of contents is in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    /// What it begins with.
    pub head: Head,
    caveats: Vec<Caveat>,
    tag: [u8; 32],
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("head", &self.head).field("caveats", &self.caveats).finish_non_exhaustive()
    }
}

impl Claim {
    /// A claim to everything, by who has the volume's grant key.
    pub fn issue(key: &[u8; 32], head: Head) -> Self {
        Self { head, caveats: Vec::new(), tag: head.tag(key) }
    }

    /// The claim with one more caveat. Needs no key.
    pub fn narrow(mut self, caveat: Caveat) -> Result<Self, Error> {
        if self.caveats.len() >= CAVEATS_MAX {
            return Err(Error::TooMany { what: "caveats", max: CAVEATS_MAX });
        }
        self.tag = *blake3::keyed_hash(&self.tag, &caveat.encode()).as_bytes();
        self.caveats.push(caveat);
        Ok(self)
    }

    /// What must hold, oldest first.
    pub fn caveats(&self) -> &[Caveat] {
        &self.caveats
    }

    /// The last prefix, which lies in all others if the grant was made by [`crate::Grant`].
    pub fn prefix(&self) -> &str {
        let prefix = |caveat: &'_ Caveat| matches!(caveat, Caveat::Prefix(_));
        match self.caveats.iter().rfind(|caveat| prefix(caveat)) {
            Some(Caveat::Prefix(prefix)) => prefix,
            _ => "",
        }
    }

    /// When the first of its times is over.
    pub fn until(&self) -> Option<Wall> {
        self.caveats.iter().filter_map(|caveat| if let Caveat::Until(at) = caveat { Some(*at) } else { None }).min()
    }

    /// Succeeds if the claim was made with `key`, nothing was taken from it, and it allows the request.
    pub fn check(&self, key: &[u8; 32], request: &Request<'_>, rules: &Rules<'_>) -> Result<(), Refusal> {
        if self.head.volume != request.volume {
            return Err(Refusal::OtherVolume);
        }
        let tag = self
            .caveats
            .iter()
            .fold(self.head.tag(key), |tag, caveat| *blake3::keyed_hash(&tag, &caveat.encode()).as_bytes());
        // BLAKE3's own comparison: it takes the same time wherever they differ.
        if blake3::Hash::from_bytes(tag) != blake3::Hash::from_bytes(self.tag) {
            return Err(Refusal::Forged);
        }
        if self.head.epoch < rules.epoch {
            return Err(Refusal::Revoked { epoch: self.head.epoch, now: rules.epoch });
        }
        if rules.revoked.contains(&self.head.id) {
            return Err(Refusal::RevokedLabel);
        }
        self.caveats.iter().try_for_each(|caveat| caveat.check(request, rules))
    }
}

impl Versioned for Claim {
    const NAME: &'static str = "claim";
    const MARK: [u8; 4] = *b"AbGc";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        self.head.write(to);
        to.u8(self.caveats.len() as u8);
        for caveat in &self.caveats {
            to.raw(&caveat.encode());
        }
        to.raw(&self.tag);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let head = Head::read(from)?;
        let len = usize::from(from.u8("caveats")?);
        if len > CAVEATS_MAX {
            return Err(CodecError::TooLong { what: "caveats", len, max: CAVEATS_MAX });
        }
        let caveats = (0..len).map(|_| Caveat::read(from)).collect::<Result<_, _>>()?;
        Ok(Self { head, caveats, tag: from.array("tag")? })
    }
}
