//! One placement group: which drive holds which piece.

use base::limits::CODE_PIECES_MAX;
use base::{DriveId, GroupId};
use codec::{Error, Reader, Versioned, Writer};

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// Its number within the policy.
    pub group: GroupId,
    /// Raised with every change.
    pub version: u32,
    /// Drive i holds piece i.
    pub members: Vec<DriveId>,
    /// Where piece i still may be while it is moving; the same as `members` where settled.
    pub from: Vec<DriveId>,
}

impl GroupRow {
    /// The drives to ask for piece `index`, most likely first.
    pub fn holders(&self, index: usize) -> impl Iterator<Item = DriveId> + '_ {
        let now = self.members.get(index).copied();
        let before = self.from.get(index).copied().filter(|drive| Some(*drive) != now);
        now.into_iter().chain(before)
    }

    /// Positions whose pieces are still being moved or rebuilt.
    pub fn moving(&self) -> impl Iterator<Item = usize> + '_ {
        self.members.iter().zip(&self.from).enumerate().filter(|(_, (now, before))| now != before).map(|(at, _)| at)
    }

    /// Says that all pieces are where `members` says.
    pub fn settle(&mut self) {
        self.from.clone_from(&self.members);
        self.version += 1;
    }
}

impl Versioned for GroupRow {
    const NAME: &'static str = "placement group";
    const MARK: [u8; 4] = *b"AbGr";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.group.0).u32(self.version).u8(self.members.len() as u8);
        for drive in self.members.iter().chain(&self.from) {
            to.raw(&drive.0);
        }
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let group = GroupId(from.u32("group")?);
        let version = from.u32("group version")?;
        let n = usize::from(from.u8("group size")?);
        if n == 0 || n > CODE_PIECES_MAX {
            return Err(Error::Value { what: "group size", value: n as u64 });
        }
        let mut drives = |what| (0..n).map(|_| Ok(DriveId(from.array(what)?))).collect::<Result<Vec<_>, Error>>();
        let members = drives("group member")?;
        let before = drives("group member before")?;
        Ok(Self { group, version, members, from: before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_back_and_its_bytes_never_change() {
        let row = GroupRow {
            group: GroupId(7),
            version: 2,
            members: vec![DriveId([1; 16]), DriveId([2; 16])],
            from: vec![DriveId([1; 16]), DriveId([3; 16])],
        };
        let bytes = row.encode();
        assert_eq!(base::ids::hex(&bytes), include_str!("../tests/group.txt").trim());
        assert_eq!(GroupRow::decode(&bytes).unwrap(), row);
        assert_eq!(row.holders(1).collect::<Vec<_>>(), [DriveId([2; 16]), DriveId([3; 16])]);
        for cut in 0..bytes.len() {
            assert!(GroupRow::decode(&bytes[..cut]).is_err());
        }
    }
}
