//! Which folder's key opens what a writer left in headers, for the volume's owner to find out.
//!
//! Who writes with a grant can't seal for the whole volume, and its owner, with nothing but the words and some pieces,
//! can't know with which folder's key it was sealed. So a grant carries that, sealed: from the top to the folder for which it was
//! made, and on from there each time it was narrowed. Its holder can't read it and needn't.

use codec::{Error as CodecError, Reader, Writer};
use crypt::{FolderKey, VolumeRoot};

use crate::Error;

/// Steps at the most: how often a grant is narrowed to something below.
pub const STEPS_MAX: usize = 8;
const AAD: &[u8] = b"anchor";
/// A sealed path below: salt, tag, and the path.
const STEP_BYTES_MAX: usize = 32 + base::limits::KEY_BYTES_MAX;

/// Sealed paths, each below the one before, each under the key to which the ones before lead. None: the top folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Anchor(Vec<Vec<u8>>);

impl Anchor {
    /// For a grant of `path`, made by the volume's owner. `salt` is random.
    pub fn new(root: &VolumeRoot, path: &str, salt: [u8; 16]) -> Self {
        Self(vec![root.anchor_key().seal_bytes(salt, AAD, path.as_bytes())])
    }

    /// For one that is narrowed to `path` below what `key` opens.
    pub fn below(&self, key: &FolderKey, path: &str, salt: [u8; 16]) -> Result<Self, Error> {
        if self.0.len() >= STEPS_MAX {
            return Err(Error::TooMany { what: "steps", max: STEPS_MAX });
        }
        let mut steps = self.0.clone();
        steps.push(key.seal_bytes(salt, AAD, path.as_bytes()));
        Ok(Self(steps))
    }

    /// The true path, and the key of what is there.
    pub fn open(&self, root: &VolumeRoot) -> Result<(String, FolderKey), Error> {
        let (mut path, mut opener) = (String::new(), root.anchor_key());
        let mut key = root.top();
        for (at, step) in self.0.iter().enumerate() {
            let below =
                String::from_utf8(opener.open_bytes(AAD, step)?).map_err(|_| CodecError::Utf8 { what: "anchor" })?;
            // What goes on below a file is no path of ours.
            if at > 0 && !path.is_empty() && !path.ends_with('/') {
                return Err(Error::NotAFolder);
            }
            key = key.at(&below);
            path.push_str(&below);
            opener = key.clone();
        }
        Ok((path, key))
    }

    /// Whether it is the top folder.
    pub fn is_top(&self) -> bool {
        self.0.is_empty()
    }

    /// A count, then the steps.
    pub fn write(&self, to: &mut Writer) {
        to.u8(self.0.len() as u8);
        for step in &self.0 {
            to.bytes(step);
        }
    }

    /// Reads what [`Anchor::write`] wrote.
    pub fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let len = usize::from(from.u8("steps")?);
        if len > STEPS_MAX {
            return Err(CodecError::TooLong { what: "steps", len, max: STEPS_MAX });
        }
        (0..len).map(|_| from.bytes("step", STEP_BYTES_MAX).map(<[u8]>::to_vec)).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_finds_the_folder_of_a_grant_that_was_narrowed() {
        let root = VolumeRoot::new([1; 32]);
        assert_eq!(Anchor::default().open(&root).unwrap(), (String::new(), root.top()));
        let photos = Anchor::new(&root, "photos/", [1; 16]);
        let below = photos.below(&root.top().at("photos/"), "2026/may/", [2; 16]).unwrap();
        assert_eq!(below.open(&root).unwrap(), ("photos/2026/may/".into(), root.top().at("photos/2026/may/")));
        let wrong = photos.below(&root.top().at("videos/"), "2026/", [2; 16]).unwrap();
        assert!(wrong.open(&root).is_err(), "a step under another key");
        assert!(below.open(&VolumeRoot::new([2; 32])).is_err());
        let file = Anchor::new(&root, "a", [1; 16]).below(&root.top().at("a"), "b", [2; 16]).unwrap();
        assert_eq!(file.open(&root), Err(Error::NotAFolder));
        let mut long = photos.clone();
        while long.0.len() < STEPS_MAX {
            long = long.below(&root.top(), "", [3; 16]).unwrap();
        }
        assert!(matches!(long.below(&root.top(), "", [3; 16]), Err(Error::TooMany { .. })));
    }
}
