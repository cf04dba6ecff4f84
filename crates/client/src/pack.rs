//! Packs: small objects that arrive together share a segment.
//!
//! One worker per volume; in an end-to-end volume, per folder whose key seals what headers say. A pack
//! holds what came while those before were being written: no timer, so a lone object doesn't wait, and a
//! flood shares its drives' syncs. Each object is sealed with its own key, in cells of 64 KiB, so that a
//! grant opens one object and not its neighbours.

use std::sync::{Arc, Weak};
use std::time::Duration;

use base::limits::{CELL_BYTES, SEAL_BYTES};
use base::{SegmentId, VolumeId};
use bytes::Bytes;
use codec::Versioned;
use crypt::SegmentKey;
use erasure::Code;
use kit::header::{Origin, PackSlot};
use namespace::{Body, SegmentRef, Slot};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::Error;
use crate::access::Sealer;
use crate::batch::{Roots, pieces};
use crate::core::Core;
use crate::header::{PieceHeader, SLOTS_MAX};
use crate::layout::Layout;
use crate::map::Target;
use crate::registry::Registry;
use crate::run::{Held, Run};
use crate::segment::Belonging;

/// Sealed bytes of a pack at the most: written in a fraction of a second, compacted in memory.
pub(crate) const PACK_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Packs of a volume that are written at a time: a drive that straggles delays only one of them.
const PACKS_MAX: usize = 3;
/// A pack that isn't durable on enough drives after this long has failed.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// A pack that lost too many drives on its way goes to others, if no more time than this went by: longer than a node's
/// silence is listened to, short enough that nobody waits for what can't be.
const AGAIN_WITHIN: Duration = Duration::from_secs(4);
/// So often.
const AGAIN_MAX: u32 = 2;
/// Sealing and coding up to this many bytes isn't worth a hop to another thread.
const BUILD_HERE_BYTES_MAX: usize = 128 * 1024;
/// Objects that wait for the next pack.
const WAITING_MAX: usize = 256;

/// An object for a pack.
pub(crate) struct Item {
    pub parts: Vec<Bytes>,
    pub len: usize,
    pub of: Belonging,
    pub sealer: Sealer,
    pub reply: oneshot::Sender<Result<Body, Error>>,
}

/// Bytes that an object takes in a pack.
pub(crate) fn sealed_len(len: usize) -> usize {
    len + len.div_ceil(CELL_BYTES) * SEAL_BYTES
}

/// Starts a volume's worker; it ends when all senders are gone.
pub(crate) fn worker(core: &Arc<Core>, registry: &Arc<Registry>, volume: VolumeId) -> mpsc::Sender<Item> {
    let (send, mut items) = mpsc::channel::<Item>(WAITING_MAX);
    let (core, registry) = (core.clone(), Arc::downgrade(registry));
    core.env.clone().spawn("pack", async move {
        let mut left = None;
        let room = Arc::new(Semaphore::new(PACKS_MAX));
        loop {
            let first = match left.take() {
                Some(item) => item,
                None => match items.recv().await {
                    Some(item) => item,
                    None => return,
                },
            };
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let mut bytes = sealed_len(first.len);
            let mut group = vec![first];
            while group.len() < SLOTS_MAX
                && let Ok(item) = items.try_recv()
            {
                bytes += sealed_len(item.len);
                if bytes > PACK_BYTES_MAX {
                    left = Some(item);
                    break;
                }
                group.push(item);
            }
            let (this, registry) = (core.clone(), registry.clone());
            core.env.spawn("pack", async move {
                write(&this, &registry, volume, group).await;
                drop(permit);
            });
        }
    });
    send
}

/// Writes one pack and answers everybody in it.
async fn write(core: &Arc<Core>, registry: &Weak<Registry>, volume: VolumeId, group: Vec<Item>) {
    // Who gave up in the meantime takes no room.
    let (replies, objects): (Vec<_>, Vec<_>) = group
        .into_iter()
        .filter(|item| !item.reply.is_closed())
        .map(|item| {
            let Item { parts, len, of, sealer, reply } = item;
            (reply, Object { parts, len, of, sealer })
        })
        .unzip();
    if objects.is_empty() {
        return;
    }
    match store(core, volume, objects).await {
        Ok((held, bodies)) => {
            let Some(registry) = registry.upgrade() else { return };
            let segment = held.segment;
            registry.add(held, bodies.len() as u32, core.env.clock.now());
            for (reply, body) in replies.into_iter().zip(bodies) {
                if reply.send(Ok(body)).is_err() {
                    registry.settle([segment], false);
                }
            }
        }
        Err(error) => replies.into_iter().for_each(|reply| {
            let _ = reply.send(Err(error.clone()));
        }),
    }
}

struct Object {
    parts: Vec<Bytes>,
    len: usize,
    of: Belonging,
    sealer: Sealer,
}

/// Its bytes are at hand: if drives go away meanwhile they are written to others. The caller would do no better, and
/// wait longer.
async fn store(core: &Arc<Core>, volume: VolumeId, objects: Vec<Object>) -> Result<(Held, Vec<Body>), Error> {
    let (objects, began, mut again) = (Arc::new(objects), core.env.clock.now(), 0);
    loop {
        let target = core.target(volume).await?;
        let stored = store_at(core, volume, target, objects.clone()).await;
        let in_time = again < AGAIN_MAX && core.env.clock.now().since(began) < AGAIN_WITHIN;
        if !in_time || !matches!(stored, Err(Error::TooFewPieces { .. })) {
            return stored;
        }
        again += 1;
    }
}

async fn store_at(
    core: &Arc<Core>,
    volume: VolumeId,
    target: Target,
    objects: Arc<Vec<Object>>,
) -> Result<(Held, Vec<Body>), Error> {
    let segment = core.new_segment();
    let run = Run::begin(core.clone(), volume, segment, target.clone());
    run.check()?;
    let this = core.clone();
    let bytes: usize = objects.iter().map(|object| object.len).sum();
    let built = if bytes <= BUILD_HERE_BYTES_MAX {
        build(&this, volume, segment, &target, &objects)
    } else {
        core.env.blocking(move || build(&this, volume, segment, &target, &objects)).await?
    };
    let Built { header, pieces, slots } = built?;
    let layout = header.layout();
    for (index, cells) in pieces.into_iter().enumerate() {
        let Some(holder) = run.holder(index) else {
            run.lose(index);
            continue;
        };
        let (id, header) = (run.piece(index), Bytes::from(header.at(index as u8).encode()));
        run.settling(index);
        run.bring(index, async move { holder.put(id, header, vec![cells], layout.stored_bytes_max()).await });
    }
    run.settle(SETTLE_MAX).await?;
    let reference = SegmentRef {
        id: segment,
        policy: header.policy,
        group: header.group,
        k: header.k,
        m: header.m,
        len: header.len,
        root: header.root(),
        wrapped_key: [0; 48],
    };
    let body = |(index, slot): (usize, PackSlot)| {
        let reference = SegmentRef { wrapped_key: slot.wrapped_key, ..reference.clone() };
        Body::Packed(reference, Slot { index: index as u32, offset: slot.offset, len: slot.len })
    };
    Ok((run, slots.into_iter().enumerate().map(body).collect()))
}

struct Built {
    header: PieceHeader,
    pieces: Vec<Bytes>,
    slots: Vec<PackSlot>,
}

/// Seals every object, lays the pack out, codes and hashes it. All are of one folder.
fn build(
    core: &Core,
    volume: VolumeId,
    segment: SegmentId,
    target: &Target,
    objects: &[Object],
) -> Result<Built, Error> {
    let folder = objects.first().map(|object| object.sealer.folder.clone());
    let folder = folder.ok_or(Error::Invalid { what: "a pack of nothing" })?;
    let total: usize = objects.iter().map(|object| sealed_len(object.len)).sum();
    let layout = Layout::pack(target.k(), total as u64);
    let mut spread = Spread::new(layout);
    let mut slots = Vec::with_capacity(objects.len());
    for (index, object) in objects.iter().enumerate() {
        let key = SegmentKey::new(core.env.random());
        let offset = spread.len;
        spread.add(|to| {
            to.reserve(sealed_len(object.len));
            seal(&key, volume, segment, &object.parts, to);
        });
        slots.push(PackSlot {
            offset: offset as u32,
            len: (spread.len - offset) as u32,
            wrapped_key: object.sealer.wrap.wrap(&key, segment, 1 + index as u32),
            path: object.of.path.clone(),
            part: object.of.part,
        });
    }
    let code = Code::new(target.k().into(), target.m().into())?;
    let mut roots = Roots::new(&code);
    let len = layout.len();
    let pieces = pieces(spread.finish()?, &code, &mut roots)?;
    let mut header = PieceHeader {
        volume,
        segment,
        index: 0,
        k: target.k(),
        m: target.m(),
        pack: true,
        len,
        written: core.env.clock.wall(),
        policy: target.policy.id,
        group: target.group.group,
        wrapped_key: [0; 48],
        roots: roots.finish(),
        fragment: Vec::new(),
        owner: None,
    };
    header.seal(&folder, core.env.random(), &Origin::Pack(slots.clone()));
    Ok(Built { header, pieces, slots })
}

/// Appends the object in sealed cells.
fn seal(key: &SegmentKey, volume: VolumeId, segment: SegmentId, parts: &[Bytes], to: &mut Vec<u8>) {
    let mut cell = 0;
    let mut start = to.len();
    let mut close = |to: &mut Vec<u8>, start: &mut usize| {
        let tag = key.seal_cell(volume, segment, cell, &mut to[*start..]);
        to.extend_from_slice(&tag);
        *start = to.len();
        cell += 1;
    };
    for part in parts {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(CELL_BYTES - (to.len() - start)));
            to.extend_from_slice(now);
            rest = later;
            if to.len() - start == CELL_BYTES {
                close(to, &mut start);
            }
        }
    }
    if to.len() > start {
        close(to, &mut start);
    }
}

/// Lays sealed objects, one behind the other, over the data pieces.
struct Spread {
    layout: Layout,
    len: u64,
    pieces: Vec<Vec<u8>>,
    /// One object, sealed: small enough that it is spread from the processor's cache.
    sealed: Vec<u8>,
}

impl Spread {
    fn new(layout: Layout) -> Self {
        let pieces = (0..layout.k()).map(|_| Vec::with_capacity(layout.piece_bytes() as usize)).collect();
        Self { layout, len: 0, pieces, sealed: Vec::new() }
    }

    /// Adds what `seal` appends.
    fn add(&mut self, seal: impl FnOnce(&mut Vec<u8>)) {
        if let [all] = &mut self.pieces[..] {
            seal(all);
            self.len = all.len() as u64;
            return;
        }
        self.sealed.clear();
        seal(&mut self.sealed);
        let mut rest = &self.sealed[..];
        while !rest.is_empty() && self.len < self.layout.len() {
            let at = self.layout.cell_of(self.len);
            let room = self.layout.bytes_of(at).end - self.len;
            let (now, later) = rest.split_at(rest.len().min(room as usize));
            self.pieces[at.piece].extend_from_slice(now);
            self.len += now.len() as u64;
            rest = later;
        }
        // Nothing should be left: `finish` says so.
        self.len += rest.len() as u64;
    }

    /// The data pieces' bytes, with zeros behind the end.
    fn finish(mut self) -> Result<Vec<Vec<u8>>, Error> {
        if self.len != self.layout.len() {
            return Err(Error::Invalid { what: "an object has more or fewer bytes than its writer counted" });
        }
        self.pieces.iter_mut().for_each(|piece| piece.resize(self.layout.piece_bytes() as usize, 0));
        Ok(self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::CellAt;

    #[test]
    fn objects_lie_where_the_layout_says() {
        for k in [1, 2, 3, 4] {
            for sizes in [vec![1], vec![5000], vec![70_000, 3, 200_000], vec![65_536 * 4, 65_536], vec![0, 1 << 20, 9]]
            {
                let all: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|at| (at * 31 + at / 251) as u8).collect();
                let layout = Layout::pack(k, all.len() as u64);
                let mut spread = Spread::new(layout);
                let mut rest = &all[..];
                for size in &sizes {
                    let (now, later) = rest.split_at(*size);
                    spread.add(|to| to.extend_from_slice(now));
                    rest = later;
                }
                let pieces = spread.finish().unwrap();
                for (piece, bytes) in pieces.iter().enumerate() {
                    assert_eq!(bytes.len() as u64, layout.piece_bytes(), "{k} {sizes:?}");
                    for stripe in 0..layout.stripes() {
                        let held = layout.bytes_of(CellAt { stripe, piece });
                        let cell = layout.piece_range(stripe..stripe + 1);
                        let (held, cell) =
                            (held.start as usize..held.end as usize, cell.start as usize..cell.end as usize);
                        let (data, padding) = bytes[cell].split_at(held.len());
                        assert!(
                            data == &all[held] && padding.iter().all(|byte| *byte == 0),
                            "{k} {sizes:?} {stripe} {piece}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn objects_of_another_size_than_they_were_counted_are_refused() {
        for (counted, real) in [(100, 99), (100, 101)] {
            for k in [1, 3] {
                let mut spread = Spread::new(Layout::pack(k, counted));
                spread.add(|to| to.extend_from_slice(&vec![7; real]));
                assert!(spread.finish().is_err(), "{k} {counted} {real}");
            }
        }
    }
}
