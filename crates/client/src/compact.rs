//! Packs of which little is still in use are emptied: what lives moves to a new pack.

use std::collections::BTreeMap;

use base::{SegmentId, VolumeId};
use kit::header::Origin;
use namespace::rows::Owner;
use namespace::{Body, Command, Slot, Span, Version, VersionId};
use tokio::sync::oneshot;

use crate::access::Access;
use crate::client::Client;
use crate::pack::Item;
use crate::read::{ReadStream, Reading};
use crate::segment::Belonging;
use crate::source::Source;
use crate::{Bucket, Error, verify};

/// Rows read at a time.
const PAGE: usize = 512;

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Objects that moved.
    pub moved: u32,
    /// Bytes of them.
    pub bytes: u64,
    /// Slots that stay: parts of uploads under way, objects of end-to-end volumes.
    pub left: u32,
}

/// What lives in a slot.
struct Lives {
    size: u64,
    body: Body,
    of: Belonging,
}

/// The slots' new places. What no version named by the end of the move is given back.
struct Moved<'a> {
    client: &'a Client,
    bodies: BTreeMap<u32, Body>,
}

impl Drop for Moved<'_> {
    fn drop(&mut self) {
        self.client.discard_all(self.bodies.values());
    }
}

/// A version that names a slot of the pack.
struct User {
    key: String,
    version: VersionId,
    body: Body,
}

/// Moves everything that lives in the pack elsewhere; the pack becomes garbage with the last of it.
pub(crate) async fn compact(client: &Client, volume: VolumeId, pack: SegmentId) -> Result<Compacted, Error> {
    let mut done = Compacted::default();
    let mut slots: BTreeMap<u32, Lives> = BTreeMap::new();
    let mut users = Vec::new();
    for (owner, ord) in owners(client, volume, pack).await? {
        match owner {
            Owner::Part { .. } => done.left += 1,
            Owner::Version { key, version } => {
                let Some(found) = version_of(client, volume, key.clone(), version, ord).await? else { continue };
                in_pack(&found.body, found.size, pack, &mut |slot, size, body| {
                    let of = Belonging { path: key.clone(), part: None };
                    slots.insert(slot.index, Lives { size, body: body.clone(), of });
                });
                users.push(User { key, version, body: found.body });
            }
        }
    }
    // What its client's own key sealed stays: it can't be opened here, and only what was opened moves.
    let opener = Access::Volume.opener(client.core(), volume)?;
    let before = slots.len();
    slots.retain(|_, lives| opener.fits(&lives.body));
    done.left += (before - slots.len()) as u32;
    name_parts(client, volume, &mut slots).await?;
    let moved = Moved { client, bodies: rewrite(client, volume, &slots).await? };
    let bucket = Bucket::of_volume(volume);
    for User { key, version, body } in users {
        let to = replaced(&body, pack, &moved.bodies);
        if to == body {
            continue;
        }
        match client.commit(&bucket, Command::Rebody { key, version, from: body, to }).await {
            Ok(_) => done.moved += 1,
            // Deleted meanwhile: it doesn't take its new place.
            Err(Error::Namespace(namespace::Error::NoSuchKey | namespace::Error::NoSuchVersion)) => {}
            // All that had been moved to the new pack was deleted meanwhile, and the pack with it: this one stays
            // where it is for now.
            Err(Error::Namespace(namespace::Error::SegmentGone { .. })) => done.left += 1,
            Err(error) => return Err(error),
        }
    }
    done.bytes = slots.values().map(|lives| lives.size).sum();
    Ok(done)
}

async fn owners(client: &Client, volume: VolumeId, pack: SegmentId) -> Result<Vec<(Owner, u64)>, Error> {
    let mut owners = Vec::new();
    let mut after = None;
    loop {
        let read = move |view: &dyn base::kv::View| {
            Ok::<_, Error>(namespace::read::pack_slots(view, volume, pack, after, PAGE)?)
        };
        let page = client.core().shard(volume).scan(None, read).await?;
        after = page.last().map(|slot| (slot.slot, slot.ord));
        let full = page.len() == PAGE;
        owners.extend(page.into_iter().map(|slot| (slot.owner, slot.ord)));
        if !full {
            return Ok(owners);
        }
    }
}

async fn version_of(
    client: &Client,
    volume: VolumeId,
    key: String,
    version: VersionId,
    ord: u64,
) -> Result<Option<Version>, Error> {
    let read = move |view: &dyn base::kv::View| {
        // Deleted, and it can still be had back: several of a key may have had one name.
        if let Some(deleted) = namespace::undo::deleted(view, volume, &key, ord)? {
            return Ok(Some(deleted));
        }
        match namespace::read::head(view, volume, &key, Some(version), true) {
            Ok(found) => Ok(Some(found.into_version())),
            // Deleted since its slot was listed.
            Err(namespace::Error::NoSuchKey | namespace::Error::NoSuchVersion) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    client.core().shard(volume).scan(None, read).await
}

/// Parts of uploads keep the upload, the number and the path that they were written for: only the old pack's header says
/// them.
async fn name_parts(client: &Client, volume: VolumeId, slots: &mut BTreeMap<u32, Lives>) -> Result<(), Error> {
    let Some(Body::Packed(segment, _)) = slots.values().next().map(|lives| lives.body.clone()) else { return Ok(()) };
    let source = Source::open(client.core(), volume, segment, true).await?;
    let Some(header) = verify::trusted(&source).await else { return Ok(()) };
    // What doesn't open stays under its version's name.
    let Ok(Origin::Pack(written)) = header.origin(&client.core().volume_key(volume)?) else { return Ok(()) };
    for (index, slot) in written.into_iter().enumerate().filter(|(_, slot)| slot.part.is_some()) {
        if let Some(lives) = slots.get_mut(&(index as u32)) {
            lives.of = Belonging { path: slot.path, part: slot.part };
        }
    }
    Ok(())
}

/// Calls `each` for the parts of a body that lie in the pack.
fn in_pack(body: &Body, size: u64, pack: SegmentId, each: &mut impl FnMut(&Slot, u64, &Body)) {
    match body {
        Body::Packed(segment, slot) if segment.id == pack => each(slot, size, body),
        Body::Spans(spans) => spans.iter().for_each(|span| in_pack(&span.body, span.size, pack, each)),
        _ => {}
    }
}

/// Writes the slots' objects anew, all at once, so that they share a pack again.
async fn rewrite(
    client: &Client,
    volume: VolumeId,
    slots: &BTreeMap<u32, Lives>,
) -> Result<BTreeMap<u32, Body>, Error> {
    let mut answers = Vec::new();
    let packs = client.packs(volume, &Access::Volume);
    for (index, Lives { size, body, of }) in slots {
        let reading = Reading::new(client.core(), volume, &Access::Volume)?;
        let mut stream = ReadStream::new(reading, body.clone(), *size, 0..*size)?;
        let mut parts = Vec::new();
        while let Some(bytes) = stream.next().await {
            parts.push(bytes?);
        }
        let (reply, answer) = oneshot::channel();
        let sealer = Access::Volume.sealer(client.core(), volume)?;
        let item = Item { parts, len: *size as usize, of: of.clone(), sealer, reply };
        packs.send(item).await.map_err(|_| Error::Cut(env::Cut))?;
        answers.push((*index, answer));
    }
    // All of them, so that what was written is given back if one fails.
    let mut moved = Moved { client, bodies: BTreeMap::new() };
    let mut failed = None;
    for (index, answer) in answers {
        match answer.await.unwrap_or(Err(Error::Cut(env::Cut))) {
            Ok(body) => _ = moved.bodies.insert(index, body),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or_else(|| Ok(std::mem::take(&mut moved.bodies)), Err)
}

/// The body with its slots of the pack replaced.
fn replaced(body: &Body, pack: SegmentId, moved: &BTreeMap<u32, Body>) -> Body {
    match body {
        Body::Packed(segment, slot) if segment.id == pack => {
            moved.get(&slot.index).cloned().unwrap_or_else(|| body.clone())
        }
        Body::Spans(spans) => {
            let span = |span: &Span| Span { size: span.size, body: replaced(&span.body, pack, moved) };
            Body::Spans(spans.iter().map(span).collect())
        }
        other => other.clone(),
    }
}
