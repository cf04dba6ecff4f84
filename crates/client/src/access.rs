//! Whose keys an object is written and read with: its volume's, or, in an end-to-end volume, its own file's.
//!
//! Either way the same code runs: a [`VolumeKey`] wraps what is random, and a [`Folder`] seals what pieces say of
//! themselves. Only where the two come from differs (docs/formats/keys.md, *Volumes*).

use std::sync::Arc;

use base::VolumeId;
use base::limits::SEALED_BYTES_MORE;
use crypt::{FolderKey, PublicKey, VolumeKey, VolumeRoot};
use grant::Anchor;
use namespace::{Body, SegmentRef, Span};

use crate::Error;
use crate::core::Core;

/// Associated data of an inline object's sealed bytes.
const CONTENTS: &[u8] = b"contents";

/// The key of a folder, or of a file, with where it is: the owner's is that of the topmost folder, a grant brings its own.
#[derive(Clone, Debug)]
pub struct Folder {
    owner: PublicKey,
    anchor: Anchor,
    key: FolderKey,
}

impl Folder {
    /// The topmost folder, by who has the volume's root.
    pub fn of_root(root: &VolumeRoot) -> Self {
        Self { owner: root.signing_key().public(), anchor: Anchor::default(), key: root.top() }
    }

    /// What a grant opens. `owner` is the volume's public key.
    pub fn of_grant(owner: PublicKey, anchor: Anchor, key: FolderKey) -> Self {
        Self { owner, anchor, key }
    }

    /// The volume's public key, which is in the headers of all its pieces.
    pub fn owner(&self) -> PublicKey {
        self.owner
    }

    /// Which folder it is, sealed for the volume's owner.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// The folder's key.
    pub fn key(&self) -> &FolderKey {
        &self.key
    }

    /// Which folder it is: packs are shared by what one folder's key seals.
    pub(crate) fn place(&self) -> FolderPlace {
        (self.owner.0, self.anchor.clone())
    }
}

/// Tells folders apart.
pub(crate) type FolderPlace = ([u8; 32], Anchor);

/// Whose keys wrap an object's.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// The volume's: the cluster has it.
    #[default]
    Volume,
    /// The file's own: an end-to-end volume.
    File {
        /// A folder above the file, or the file itself.
        folder: Arc<Folder>,
        /// The true path from there on; empty if `folder` is the file.
        path: String,
    },
}

/// What opens an object.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    pub wrap: VolumeKey,
    /// Opens what lies in the metadata; what isn't sealed there needs none.
    file: Option<FolderKey>,
}

/// What an object is written with.
#[derive(Clone, Debug)]
pub(crate) struct Sealer {
    pub wrap: VolumeKey,
    pub folder: Arc<Folder>,
}

impl Access {
    pub(crate) fn file(folder: &Arc<Folder>, path: &str) -> Self {
        Self::File { folder: folder.clone(), path: path.to_owned() }
    }

    fn file_key(&self) -> Option<FolderKey> {
        match self {
            Access::Volume => None,
            Access::File { folder, path } => Some(folder.key.at(path)),
        }
    }

    /// What opens objects of the volume that were written so.
    pub(crate) fn opener(&self, core: &Core, volume: VolumeId) -> Result<Opener, Error> {
        let file = self.file_key();
        let wrap = match &file {
            None => core.volume_key(volume)?,
            Some(file) => file.contents(volume),
        };
        Ok(Opener { wrap, file })
    }

    /// What seals them.
    pub(crate) fn sealer(&self, core: &Core, volume: VolumeId) -> Result<Sealer, Error> {
        let folder = match self {
            Access::Volume => core.folder(volume)?,
            Access::File { folder, .. } => folder.clone(),
        };
        Ok(Sealer { wrap: self.opener(core, volume)?.wrap, folder })
    }

    /// Bytes as they go into the metadata.
    pub(crate) fn seal_inline(&self, core: &Core, bytes: Vec<u8>) -> Vec<u8> {
        match self.file_key() {
            None => bytes,
            Some(file) => file.seal_bytes(core.env.random(), CONTENTS, &bytes),
        }
    }
}

impl Opener {
    /// Whether what it opens wrapped the body's keys. What lies in the metadata says nothing of that.
    pub fn fits(&self, body: &Body) -> bool {
        let opens = |segment: &SegmentRef, slot| self.wrap.unwrap(&segment.wrapped_key, segment.id, slot).is_ok();
        match body {
            Body::Inline(_) | Body::Unloaded => true,
            Body::Packed(pack, slot) => opens(pack, 1 + slot.index),
            Body::Segments(segments) => segments.first().is_none_or(|first| opens(first, 0)),
            Body::Spans(spans) => spans.iter().all(|span| self.fits(&span.body)),
        }
    }

    /// The reverse of [`Access::seal_inline`]: as many bytes as the object has.
    pub fn open_inline(&self, bytes: Vec<u8>, size: u64) -> Result<Vec<u8>, Error> {
        let bytes = match &self.file {
            None => bytes,
            Some(file) => {
                if bytes.len() < SEALED_BYTES_MORE {
                    return Err(Error::Damaged { what: "an object in the metadata" });
                }
                file.open_bytes(CONTENTS, &bytes)?
            }
        };
        if bytes.len() as u64 != size {
            return Err(Error::Namespace(namespace::Error::Broken { what: "a body is shorter than its size" }));
        }
        Ok(bytes)
    }
}

/// The same bytes under another name of an end-to-end volume: only the keys' wraps are other ones.
pub(crate) fn rewrap(
    core: &Core,
    body: &Body,
    size: u64,
    from: &Opener,
    to: (&Access, &Opener),
) -> Result<Body, Error> {
    let segment = |segment: &SegmentRef, slot: u32| {
        let key = from.wrap.unwrap(&segment.wrapped_key, segment.id, slot)?;
        Ok::<_, Error>(SegmentRef { wrapped_key: to.1.wrap.wrap(&key, segment.id, slot), ..segment.clone() })
    };
    Ok(match body {
        Body::Inline(bytes) => Body::Inline(to.0.seal_inline(core, from.open_inline(bytes.clone(), size)?)),
        Body::Packed(pack, slot) => Body::Packed(segment(pack, 1 + slot.index)?, *slot),
        Body::Segments(segments) => {
            Body::Segments(segments.iter().map(|one| segment(one, 0)).collect::<Result<_, _>>()?)
        }
        Body::Spans(spans) => {
            let span = |span: &Span| Ok(Span { size: span.size, body: rewrap(core, &span.body, span.size, from, to)? });
            Body::Spans(spans.iter().map(span).collect::<Result<_, Error>>()?)
        }
        Body::Unloaded => return Err(Error::Invalid { what: "the version was read without its body" }),
    })
}
