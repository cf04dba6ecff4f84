//! Keys of folders in end-to-end volumes: names sealed so that they can be looked up, contents for whom the folder is.

use std::fmt;

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use base::VolumeId;
use base::limits::KEY_BYTES_MAX;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::aead::{Aead, TAG, counter};
use crate::segment::VolumeKey;
use crate::volume::VolumeRoot;
use crate::{Error, derive};

/// Bytes of one name at the most, before it is sealed.
pub const NAME_BYTES_MAX: usize = 255;
/// Names are padded to a multiple of this, so that their lengths say little.
const PAD: usize = 16;
/// Bytes of the synthetic IV.
const IV: usize = 16;
const SALT: usize = 16;
const WHAT: &str = "a name";

/// The key of one folder: opens its names, its files and all folders below, and nothing beside.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct FolderKey([u8; 32]);

impl fmt::Debug for FolderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FolderKey(…)")
    }
}

/// The names of a path: `a/b//c` is the folders `a`, `b` and the empty one, then the file `c`. Folders come
/// with true. A path that ends in `/`, or is empty, names a folder and no file.
pub fn path_parts(path: &str) -> impl Iterator<Item = (&str, bool)> {
    path.split_inclusive('/').map(|part| match part.strip_suffix('/') {
        Some(folder) => (folder, true),
        None => (part, false),
    })
}

impl FolderKey {
    /// From its bytes, as a grant has them.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes: secret.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0)
    }

    /// The key of a folder in this one, by its true name without `/`.
    pub fn child(&self, name: &str) -> FolderKey {
        FolderKey(*derive("abide 2026 folder v1", &[&self.0, name.as_bytes()]))
    }

    /// The key of a file in this folder: opens the file and nothing else.
    pub fn file(&self, name: &str) -> FolderKey {
        FolderKey(*derive("abide 2026 file v1", &[&self.0, name.as_bytes()]))
    }

    /// The key of what `path` names below this folder: a folder if it ends in `/`, this one if it is empty, else a file.
    pub fn at(&self, path: &str) -> FolderKey {
        path_parts(path).fold(self.clone(), |key, (name, folder)| if folder { key.child(name) } else { key.file(name) })
    }

    /// What seals and signs the kit that a guest with this key keeps for itself. Nodes never see anything of it.
    pub fn guest_root(&self) -> VolumeRoot {
        VolumeRoot::new(*derive("abide 2026 guest kit v1", &[&self.0]))
    }

    /// Of a file's key: what wraps the keys of its segments, as a volume's key does elsewhere. Of a folder's: what seals
    /// the fragments of pieces that are written with this key.
    pub fn contents(&self, volume: VolumeId) -> VolumeKey {
        VolumeKey::new(volume, *derive("abide 2026 folder contents v1", &[&self.0]))
    }

    /// Seals a name: the same text each time, so that it can be looked up. SIV (Rogaway and Shrimpton, "Deterministic
    /// Authenticated-Encryption", 2006, section 4) with keyed BLAKE3 as its PRF and AES-256-CTR.
    pub fn seal_name(&self, name: &str) -> Result<String, Error> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::NameTooLong { what: WHAT, len: name.len(), max: NAME_BYTES_MAX });
        }
        let mut bytes = vec![0; IV];
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0x80);
        bytes.resize(IV + (bytes.len() - IV).next_multiple_of(PAD), 0);
        let iv = self.synthetic(&bytes[IV..]);
        bytes[..IV].copy_from_slice(&iv);
        self.stream(iv, &mut bytes[IV..]);
        Ok(base::base64::encode(&bytes))
    }

    /// The reverse of [`FolderKey::seal_name`].
    pub fn open_name(&self, sealed: &str) -> Result<String, Error> {
        let wrong = || Error::Sealed { what: WHAT };
        let mut bytes = base::base64::decode(sealed).ok_or_else(wrong)?;
        let (iv, text) = bytes.split_first_chunk_mut::<IV>().ok_or_else(wrong)?;
        self.stream(*iv, text);
        if self.synthetic(text) != *iv {
            return Err(wrong());
        }
        let end = text.iter().rposition(|byte| *byte != 0).filter(|at| text[*at] == 0x80).ok_or_else(wrong)?;
        std::str::from_utf8(&text[..end]).map(str::to_owned).map_err(|_| wrong())
    }

    /// Seals a path below this folder, name by name, each under its folder's key. The result is a key like any other.
    pub fn seal_path(&self, path: &str) -> Result<String, Error> {
        let mut key = self.clone();
        let mut sealed = String::new();
        for (name, folder) in path_parts(path) {
            sealed.push_str(&key.seal_name(name)?);
            if folder {
                sealed.push('/');
                key = key.child(name);
            }
        }
        match sealed.len() {
            0..=KEY_BYTES_MAX => Ok(sealed),
            len => Err(Error::NameTooLong { what: "the path", len, max: KEY_BYTES_MAX }),
        }
    }

    /// The reverse of [`FolderKey::seal_path`].
    pub fn open_path(&self, sealed: &str) -> Result<String, Error> {
        let mut key = self.clone();
        let mut path = String::new();
        for (part, folder) in path_parts(sealed) {
            let name = key.open_name(part)?;
            path.push_str(&name);
            if folder {
                path.push('/');
                key = key.child(&name);
            }
        }
        Ok(path)
    }

    /// Opens the names of one listing of this folder (a folder's ends in `/`), and sorts them as S3 does. Gives
    /// true names with the sealed ones.
    pub fn open_listing<'a>(&self, sealed: impl IntoIterator<Item = &'a str>) -> Result<Vec<(String, &'a str)>, Error> {
        let open = |part: &'a str| match part.strip_suffix('/') {
            Some(folder) => self.open_name(folder).map(|name| (name + "/", part)),
            None => self.open_name(part).map(|name| (name, part)),
        };
        let mut names = sealed.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        names.sort();
        Ok(names)
    }

    /// Seals bytes that lie in the metadata (a small object, attributes): salt, ciphertext, tag. `salt` is random; it makes a
    /// key of these bytes alone, so that no number of them under one folder matters.
    pub fn seal_bytes(&self, salt: [u8; SALT], aad: &[u8], bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(SALT + bytes.len() + TAG);
        out.extend_from_slice(&salt);
        out.extend_from_slice(bytes);
        let tag = self.salted(&salt).seal(counter(0), aad, &mut out[SALT..]);
        out.extend_from_slice(&tag);
        out
    }

    /// The reverse of [`FolderKey::seal_bytes`].
    pub fn open_bytes(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let what = "sealed metadata";
        let (salt, rest) = sealed.split_first_chunk::<SALT>().ok_or(Error::Sealed { what })?;
        let mut bytes = rest.to_vec();
        let len = self.salted(salt).open(counter(0), aad, &mut bytes, what)?.len();
        bytes.truncate(len);
        Ok(bytes)
    }

    fn salted(&self, salt: &[u8; SALT]) -> Aead {
        Aead::new(&derive("abide 2026 folder bytes v1", &[&self.0, salt]))
    }

    fn synthetic(&self, padded: &[u8]) -> [u8; IV] {
        let key = derive("abide 2026 folder name iv v1", &[&self.0]);
        let mut iv = [0; IV];
        iv.copy_from_slice(&blake3::keyed_hash(&key, padded).as_bytes()[..IV]);
        iv
    }

    /// AES-256-CTR; the counter is the IV as a big-endian number.
    fn stream(&self, iv: [u8; IV], bytes: &mut [u8]) {
        let cipher = Aes256::new(&Array::from(*derive("abide 2026 folder name v1", &[&self.0])));
        for (at, chunk) in bytes.chunks_mut(16).enumerate() {
            let mut block = Array::from(u128::from_be_bytes(iv).wrapping_add(at as u128).to_be_bytes());
            cipher.encrypt_block(&mut block);
            chunk.iter_mut().zip(block).for_each(|(byte, add)| *byte ^= add);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SegmentKey, VolumeRoot};

    fn top() -> FolderKey {
        VolumeRoot::new(std::array::from_fn(|i| i as u8)).top()
    }

    #[test]
    fn paths_are_read_back_whatever_they_are() {
        for path in
            ["", "a", "a/", "a/b", "a//b/", "/", "//", "photos/2026/ä ö.jpg", "0123456789abcdef/0123456789abcde"]
        {
            let sealed = top().seal_path(path).unwrap();
            assert_eq!(top().open_path(&sealed).unwrap(), path);
            assert_eq!(sealed, top().seal_path(path).unwrap(), "a lookup finds it");
            assert!(path.is_empty() || sealed != path);
            assert_eq!(sealed.matches('/').count(), path.matches('/').count());
        }
    }

    #[test]
    fn a_folders_or_files_key_opens_what_is_below_and_nothing_beside() {
        let sealed = top().seal_path("photos/2026/a.jpg").unwrap();
        let below = sealed.split_once('/').unwrap().1;
        let photos = top().child("photos");
        assert_eq!(photos.open_path(below).unwrap(), "2026/a.jpg");
        assert_eq!(photos.at("2026/"), top().at("photos/2026/"));
        assert_eq!(photos.at(""), photos);
        for other in [top(), top().child("photo"), photos.child("2026"), FolderKey::new([0; 32])] {
            assert!(other.open_path(below).is_err());
        }
        let same = |folder: &FolderKey| folder.seal_name("a.jpg").unwrap();
        assert_ne!(same(&photos), same(&top()), "equal names in two folders look different");
        let volume = VolumeId(1);
        let segment = base::SegmentId([1; 16]);
        let file = top().at("photos/2026/a.jpg");
        assert_eq!(photos.at("2026/a.jpg"), file, "from above or from within");
        let wrapped = file.contents(volume).wrap(&SegmentKey::new([2; 32]), segment, 0);
        assert!(file.contents(volume).unwrap(&wrapped, segment, 0).is_ok());
        for other in ["photos/2026/b.jpg", "photos/2026/a.jpg/", "photos/2026/", "photos/a.jpg"] {
            assert!(top().at(other).contents(volume).unwrap(&wrapped, segment, 0).is_err(), "{other}");
        }
    }

    #[test]
    fn a_changed_or_cut_name_is_refused() {
        let sealed = top().seal_name("holiday.jpg").unwrap();
        for at in 0..sealed.len() {
            let mut wrong = sealed.clone().into_bytes();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            assert!(top().open_name(&String::from_utf8(wrong).unwrap()).is_err(), "changed at {at}");
            assert!(top().open_name(&sealed[..at]).is_err(), "cut at {at}");
        }
        for text in ["", "ä", "a.b", "A"] {
            assert!(top().open_name(text).is_err());
        }
    }

    #[test]
    fn names_of_like_length_look_alike() {
        let len = |name: &str| top().seal_name(name).unwrap().len();
        assert_eq!((len(""), len("a"), len("0123456789abcde")), (43, 43, 43));
        assert_eq!(len("0123456789abcdef"), 64);
        assert!(matches!(top().seal_name(&"a".repeat(256)), Err(Error::NameTooLong { len: 256, .. })));
        assert!(matches!(top().seal_path(&"folder/".repeat(30)), Err(Error::NameTooLong { what: "the path", .. })));
    }

    #[test]
    fn a_listing_is_sorted_by_true_names() {
        let names = ["b", "a/", "a", "a-", "c/"];
        let mut sealed: Vec<String> = names.iter().map(|name| top().seal_path(name).unwrap()).collect();
        sealed.sort();
        let opened = top().open_listing(sealed.iter().map(String::as_str)).unwrap();
        let opened: Vec<&str> = opened.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(opened, ["a", "a-", "a/", "b", "c/"]);
    }

    #[test]
    fn sealed_metadata_opens_in_its_place_only() {
        let sealed = top().seal_bytes([7; 16], b"key", b"small object");
        assert_eq!(top().open_bytes(b"key", &sealed).unwrap(), b"small object");
        assert!(top().open_bytes(b"keY", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut wrong = sealed.clone();
            wrong[at] ^= 1;
            assert!(top().open_bytes(b"key", &wrong).is_err());
            assert!(top().open_bytes(b"key", &sealed[..at]).is_err());
        }
    }

    #[test]
    fn sealed_names_never_change() {
        let lines = [
            top().seal_name("a").unwrap(),
            top().seal_path("photos/2026/holiday at the sea.jpg").unwrap(),
            base::ids::hex(&top().seal_bytes([7; 16], b"key", b"abide")),
        ];
        assert_eq!(lines.join("\n"), include_str!("../tests/names.txt").trim());
    }
}
