//! What there is: kits and headers of all nodes that can be asked, and what they come to, volume by volume.

use std::collections::BTreeMap;

use base::{NodeId, VolumeId, Wall};
use client::header::PieceHeader;
use codec::Versioned;
use crypt::{PublicKey, RootKey, SigningKey, StoreKeys, VolumeRoot};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use kit::ask::{Ask, HEADERS_MAX, Place, Told};
use kit::rescue::{Found, Report, Rescue};
use kit::spread::{Label, newest_first};
use kit::{Body, Log, State};
use transport::Class;

use crate::reach::Reach;
use crate::replace::older_roots;
use crate::{Error, Result};

/// The kit of this volume has the buckets' names: see docs/formats/kit.md.
const CATALOG: VolumeId = VolumeId(0);
/// Bytes of a kit at the most.
pub(crate) const KIT_BYTES_MAX: u64 = 8 << 30;

/// What somebody has who wants to read.
pub enum Keys {
    /// The store's root key: all volumes that the cluster has the keys of.
    Store(RootKey),
    /// The root of one volume.
    Volume(VolumeRoot),
}

impl Keys {
    /// What is shown to nodes.
    pub fn signing_key(&self) -> SigningKey {
        match self {
            Keys::Store(root) => root.signing_key(),
            Keys::Volume(root) => root.signing_key(),
        }
    }

    /// The root of a volume, if this gives it.
    fn root_of(&self, stores: Option<&StoreKeys>, volume: VolumeId) -> Option<VolumeRoot> {
        match self {
            Keys::Store(_) => stores.map(|keys| VolumeRoot::of(&keys.volume_key(volume))),
            Keys::Volume(root) => Some(root.clone()),
        }
    }
}

/// One volume, as far as it was found.
pub struct Surveyed {
    /// Its number.
    pub id: VolumeId,
    /// Its bucket's name, if a kit says it.
    pub name: Option<String>,
    /// Up to when the kit that was found goes; nothing if there was none: then what headers say is all there is.
    pub kit: Option<Wall>,
    /// Why kits that were found could not be used.
    pub bad_kits: Vec<(NodeId, String)>,
    /// The listing.
    pub report: Report,
}

/// What was found.
pub struct Survey {
    /// Volumes that have something, by number.
    pub volumes: Vec<Surveyed>,
    /// Headers of pieces that were read.
    pub headers: u64,
    /// Nodes that could not be read to their end, and why.
    pub broken: Vec<(NodeId, String)>,
    /// What opens the data.
    pub keys: Keys,
}

/// How far a survey is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Pieces that were looked at.
    pub pieces: u64,
    /// Nodes that were read to their end.
    pub nodes: usize,
    /// Segments that were found, and of how many there are enough pieces.
    pub segments: (usize, usize),
}

/// What one node says on one page.
struct Page {
    node: NodeId,
    headers: Vec<PieceHeader>,
    looked: u32,
    next: Option<Place>,
}

async fn page(reach: &Reach, node: NodeId, from: Option<Place>) -> (NodeId, Result<Page>) {
    let page = async {
        let (told, body) = reach.told(node, Ask::Headers(from, HEADERS_MAX), Class::Bulk).await?;
        let Told::Headers(lens, looked, next) = told else {
            return Err(Error::Nobody("a node answers what wasn't asked".into()));
        };
        let (mut headers, mut at) = (Vec::new(), 0);
        for len in lens {
            // What isn't a header proves nothing about the others.
            let bytes = body.get(at..at + len as usize);
            headers.extend(bytes.and_then(|bytes| PieceHeader::decode(bytes).ok()));
            at += len as usize;
        }
        // A node that goes in a circle is as good as at its end.
        let next = next.filter(|next| Some(*next) > from);
        Ok(Page { node, headers, looked, next })
    };
    (node, page.await)
}

/// Reads kits and headers of all nodes.
///
/// # Errors
/// If nothing at all can be read. A node that fails half-way is told by [`Survey::broken`].
pub async fn survey(reach: &Reach, keys: Keys, mut told: impl FnMut(Progress)) -> Result<Survey> {
    let stores = match &keys {
        Keys::Store(root) => Some(root.store_keys()),
        Keys::Volume(_) => None,
    };
    let mut rescues: BTreeMap<VolumeId, Rescue> = BTreeMap::new();
    let (mut progress, mut broken, mut headers) = (Progress::default(), Vec::new(), 0);
    let labels = labels(reach, &mut broken).await;
    let older = match &keys {
        Keys::Volume(root) => older_roots(reach, root, &labels).await,
        Keys::Store(_) => Vec::new(),
    };
    let begin = |root: VolumeRoot| Rescue::new(root, older.clone());
    let mut pages: FuturesUnordered<_> = reach.nodes().keys().map(|node| page(reach, *node, None)).collect();
    while let Some((node, done)) = pages.next().await {
        let page = match done {
            Ok(page) => page,
            Err(error) => {
                broken.push((node, error.to_string()));
                continue;
            }
        };
        progress.pieces += u64::from(page.looked);
        for header in page.headers {
            headers += 1;
            let Some(root) = keys.root_of(stores.as_ref(), header.volume) else { continue };
            let told = match (&stores, header.owner) {
                (_, Some(_)) => header.told(None),
                (Some(stores), None) => header.told(Some(&stores.volume_key(header.volume))),
                (None, None) => None,
            };
            let Some(told) = told else { continue };
            let rescue = rescues.entry(header.volume).or_insert_with(|| begin(root));
            rescue.add(Found { facts: header.facts(), index: header.index, told, at: page.node });
        }
        match page.next {
            Some(next) => pages.push(self::page(reach, page.node, Some(next))),
            None => progress.nodes += 1,
        }
        let sum = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
        if page.looked > 0 && progress.pieces.is_multiple_of(16) || pages.is_empty() {
            progress.segments = rescues.values().map(Rescue::progress).fold((0, 0), sum);
        }
        told(progress);
    }
    drop(pages);
    let names = match (&stores, &keys) {
        (Some(stores), _) => names(reach, &VolumeRoot::of(&stores.volume_key(CATALOG)), &labels).await,
        _ => BTreeMap::new(),
    };
    // Volumes of which only a kit is left: small objects lie in nothing else.
    for volume in names.keys() {
        if let Some(root) = keys.root_of(stores.as_ref(), *volume) {
            rescues.entry(*volume).or_insert_with(|| begin(root));
        }
    }
    if let Keys::Volume(root) = &keys
        && rescues.is_empty()
        && let (Some((log, _)), _) = newest_of(reach, root, &older, &labels).await
    {
        rescues.insert(log.volume(), begin(root.clone()));
    }
    let mut volumes = Vec::new();
    for (id, rescue) in rescues {
        let Some(root) = keys.root_of(stores.as_ref(), id) else { continue };
        let (found, bad_kits) = newest_of(reach, &root, &older, &labels).await;
        let state: Option<&State> = found.as_ref().map(|(log, _)| log.state());
        // Paths of an end-to-end volume are sealed; those of others are as they are.
        let paths = match (&keys, &found) {
            (Keys::Volume(_), Some((_, by))) => Some(*by),
            _ => None,
        };
        let report = rescue.finish(state, paths);
        let kit = state.map(|state| state.position().at);
        volumes.push(Surveyed { id, name: names.get(&id).cloned(), kit, bad_kits, report });
    }
    Ok(Survey { volumes, headers, broken, keys })
}

/// Which copies of kits nodes have.
pub(crate) async fn labels(reach: &Reach, broken: &mut Vec<(NodeId, String)>) -> Vec<(Label, NodeId)> {
    let nodes: Vec<NodeId> = reach.nodes().keys().copied().collect();
    let answers = join_all(nodes.iter().map(|node| reach.told(*node, Ask::Kits, Class::Small))).await;
    let mut labels = Vec::new();
    for (node, answer) in nodes.into_iter().zip(answers) {
        match answer {
            Ok((Told::Kits(found), _)) => labels.extend(found.into_iter().map(|label| (label, node))),
            Ok(_) => broken.push((node, "it answers what wasn't asked".into())),
            Err(error) => broken.push((node, error.to_string())),
        }
    }
    labels
}

/// The newest kit of a volume that is whole and its owner's, and why newer ones aren't.
pub(crate) async fn newest_kit(
    reach: &Reach,
    root: &VolumeRoot,
    labels: &[(Label, NodeId)],
) -> (Option<Log>, Vec<(NodeId, String)>) {
    let public = root.signing_key().public();
    let mut own: Vec<Label> = labels.iter().map(|(label, _)| *label).filter(|label| label.volume == public).collect();
    newest_first(&mut own);
    own.dedup();
    let mut bad = Vec::new();
    for label in own {
        for (_, node) in labels.iter().filter(|(one, _)| *one == label) {
            match fetch(reach, *node, public).await {
                Ok(bytes) => match Log::open(root, &bytes, None) {
                    Ok(opened) => return (Some(opened.log), bad),
                    Err(error) => bad.push((*node, error.to_string())),
                },
                Err(error) => bad.push((*node, error.to_string())),
            }
        }
    }
    (None, bad)
}

/// The same; if there is none of a volume's key, by those that it replaced. And by which.
async fn newest_of<'a>(
    reach: &Reach,
    root: &'a VolumeRoot,
    older: &'a [VolumeRoot],
    labels: &[(Label, NodeId)],
) -> (Option<(Log, &'a VolumeRoot)>, Vec<(NodeId, String)>) {
    let mut bad = Vec::new();
    for root in std::iter::once(root).chain(older) {
        let (log, unfit) = newest_kit(reach, root, labels).await;
        bad.extend(unfit);
        if let Some(log) = log {
            return (Some((log, root)), bad);
        }
    }
    (None, bad)
}

/// A node's copy of a kit.
pub(crate) async fn fetch(reach: &Reach, node: NodeId, volume: PublicKey) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let (told, part) = reach.told(node, Ask::Kit(volume, bytes.len() as u64), Class::Bulk).await?;
        let Told::Kit(label) = told else {
            return Err(Error::Nobody("a node answers what wasn't asked".into()));
        };
        bytes.extend_from_slice(&part);
        if bytes.len() as u64 >= label.len {
            bytes.truncate(label.len as usize);
            return Ok(bytes);
        }
        if part.is_empty() || label.len > KIT_BYTES_MAX {
            return Err(Error::Nobody("a node has less of a kit than it says".into()));
        }
    }
}

/// The root of a bucket whose keys the cluster has, by the store's root key; nothing if no kit that was found names the bucket.
pub async fn bucket_root(reach: &Reach, key: &RootKey, bucket: &str) -> Option<VolumeRoot> {
    let stores = key.store_keys();
    let labels = labels(reach, &mut Vec::new()).await;
    let names = names(reach, &VolumeRoot::of(&stores.volume_key(CATALOG)), &labels).await;
    let (volume, _) = names.into_iter().find(|(_, name)| name == bucket)?;
    Some(VolumeRoot::of(&stores.volume_key(volume)))
}

/// Buckets' names by volume.
async fn names(reach: &Reach, root: &VolumeRoot, labels: &[(Label, NodeId)]) -> BTreeMap<VolumeId, String> {
    let (log, _) = newest_kit(reach, root, labels).await;
    let number = |body: &Body| match body {
        Body::Inline(bytes) => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(u32::from_le_bytes),
        _ => None,
    };
    let log = log.iter().flat_map(|log| log.state().list(""));
    log.filter_map(|(name, object)| Some((VolumeId(number(&object.body)?), name.to_owned()))).collect()
}
