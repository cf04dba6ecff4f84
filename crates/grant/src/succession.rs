//! Other keys for a volume: what its owner says when a device was lost that had them.

use base::VolumeId;
use codec::{Error, Reader, Versioned, Writer};
use crypt::{PublicKey, SIGNATURE_BYTES, VolumeRoot};

const CONTEXT: &str = "abide 2026 volume succession v1";
/// Bytes of a sealed root at the most.
const SEALED_BYTES_MAX: usize = 128;

/// What directors need to know of a volume's new keys. Both keys signed it: nobody can take a volume away without the old ones, and none be
/// given keys that nobody has. Nothing in it opens anything for who has neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The volume.
    pub volume: VolumeId,
    /// Its public key so far.
    pub from: PublicKey,
    /// Its public key from now on.
    pub to: PublicKey,
    /// Says which words open it from now on.
    pub check: [u8; 16],
    /// Checks grants from now on.
    pub grant_key: [u8; 32],
    /// The root so far, sealed under the new one.
    pub sealed: Vec<u8>,
    signatures: [[u8; SIGNATURE_BYTES]; 2],
}

impl Succession {
    /// By who has both roots. `salt` is random.
    pub fn new(volume: VolumeId, from: &VolumeRoot, to: &VolumeRoot, salt: [u8; 16]) -> Self {
        let (old, new) = (from.signing_key(), to.signing_key());
        let mut made = Self {
            volume,
            from: old.public(),
            to: new.public(),
            check: to.check(),
            grant_key: *to.grant_key(),
            sealed: to.seal_older(from, salt),
            signatures: [[0; SIGNATURE_BYTES]; 2],
        };
        let signed = made.signed();
        made.signatures = [old.sign_as(CONTEXT, &signed), new.sign_as(CONTEXT, &signed)];
        made
    }

    /// Whether who has both roots made it.
    pub fn is_genuine(&self) -> bool {
        let signed = self.signed();
        let signers = [self.from, self.to];
        signers.iter().zip(&self.signatures).all(|(key, signature)| key.verify_as(CONTEXT, &signed, signature))
    }

    fn signed(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.u32(self.volume.0).raw(&self.from.0).raw(&self.to.0).raw(&self.check).raw(&self.grant_key);
        to.bytes(&self.sealed);
        to.finish()
    }
}

impl Versioned for Succession {
    const NAME: &'static str = "succession of a volume's keys";
    const MARK: [u8; 4] = *b"AbSu";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.signed());
        self.signatures.iter().for_each(|signature| _ = to.raw(signature));
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            volume: VolumeId(from.u32("volume")?),
            from: PublicKey(from.array("public key")?),
            to: PublicKey(from.array("new public key")?),
            check: from.array("check value")?,
            grant_key: from.array("grant key")?,
            sealed: from.bytes("sealed root", SEALED_BYTES_MAX)?.to_vec(),
            signatures: [from.array("signature")?, from.array("signature")?],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots() -> (VolumeRoot, VolumeRoot) {
        (VolumeRoot::new([1; 32]), VolumeRoot::new([2; 32]))
    }

    #[test]
    fn both_keys_say_it_and_no_byte_can_be_another() {
        let (old, new) = roots();
        let made = Succession::new(VolumeId(7), &old, &new, [3; 16]);
        assert!(made.is_genuine());
        assert_eq!(new.open_older(&made.sealed).unwrap(), old);
        let bytes = made.encode();
        assert_eq!(Succession::decode(&bytes).unwrap(), made);
        for at in 5..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(!Succession::decode(&changed).is_ok_and(|one| one.is_genuine()), "byte {at}");
        }
    }

    #[test]
    fn who_has_one_of_the_keys_cannot_say_it() {
        let ((old, new), other) = (roots(), VolumeRoot::new([9; 32]));
        let made = Succession::new(VolumeId(7), &old, &new, [3; 16]);
        for (from, to) in [(&other, &new), (&old, &other)] {
            let theirs = Succession::new(VolumeId(7), from, to, [3; 16]);
            let forged = Succession { from: made.from, to: made.to, ..theirs };
            assert!(!forged.is_genuine());
        }
    }

    #[test]
    fn its_bytes_stay_what_they_are() {
        let (old, new) = roots();
        let text = base::ids::hex(&Succession::new(VolumeId(7), &old, &new, [3; 16]).encode());
        assert_eq!(text, include_str!("../tests/succession-v1.hex").trim());
    }
}
